"""Style and script of the report page. Nothing is loaded from anywhere else."""

CSS = """
:root{color-scheme:light dark;--bg:#faf9f6;--card:#fff;--ink:#1d1e20;--soft:#5d6066;
--line:#e2dfd8;--up:#b9382b;--down:#2a64ad;--mid:#f5f1ea;--more:#5b3f8c;--untried:#d8d5ce;
--hatch:#9b9890;--wash:#f3f1ec;--link:#235a9c}
@media (prefers-color-scheme:dark){:root{--bg:#141517;--card:#1c1e21;--ink:#e9e7e2;--soft:#a3a6ad;
--line:#32353a;--up:#f0705e;--down:#6aa5ee;--mid:#2b2d31;--more:#b79bea;--untried:#3a3d43;
--hatch:#75787f;--wash:#24262a;--link:#8fbdf5}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main,header{max-width:1180px;margin:0 auto;padding:0 24px}
header{padding-top:40px}
.kicker{margin:0;color:var(--soft);font-size:13px}
h1{font-size:30px;line-height:1.2;margin:6px 0 10px;letter-spacing:-.015em;text-wrap:balance}
h2{font-size:20px;margin:52px 0 6px;letter-spacing:-.01em}
h3{font-size:15px;margin:0}
p{margin:6px 0;max-width:76ch}
.soft,.note{color:var(--soft)}
.note{font-size:13.5px}
code,.mono,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.92em}
a{color:var(--link)}
dl.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:14px 28px;
margin:26px 0 0;padding:18px 0;border-block:1px solid var(--line)}
dl.facts dt{color:var(--soft);font-size:12.5px}
dl.facts dd{margin:0;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr));gap:18px;
margin-top:16px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px}
.card header{display:flex;align-items:baseline;justify-content:space-between;gap:12px;padding:0;
max-width:none}
.big{font-size:34px;font-weight:600;letter-spacing:-.03em;font-variant-numeric:tabular-nums;
margin:8px 0 0;line-height:1.1}
.big small{font-size:14px;font-weight:400;letter-spacing:0;color:var(--soft)}
.word{font-size:13px;font-weight:600;padding:1px 9px;border-radius:99px;border:1px solid;
white-space:nowrap}
.better{color:var(--up)}.worse{color:var(--down)}
.trade-off,.no-evidence,.format-change{color:var(--soft)}
.forest{display:grid;grid-template-columns:auto 1fr auto;gap:5px 12px;align-items:center;
margin:16px 0 12px;font-size:13.5px}
.forest .track{position:relative;height:16px;background:linear-gradient(var(--line),var(--line))
50%/1px 100% no-repeat}
.forest .bar{position:absolute;top:7px;height:2px;background:currentColor;border-radius:1px}
.forest .dot{position:absolute;top:3.5px;width:9px;height:9px;margin-left:-4.5px;
border-radius:50%;background:currentColor}
.forest .open .dot{background:var(--card);border:2px solid currentColor}
.forest .open{color:var(--soft)}
.forest .up{color:var(--up)}.forest .down{color:var(--down)}
.forest .num{font-variant-numeric:tabular-nums;text-align:right}
.forest .all{font-weight:600}
.maps{display:grid;grid-template-columns:repeat(6,1fr);gap:22px;margin-top:14px}
figure{margin:0;grid-column:span 2;min-width:0}
figure.wide{grid-column:span 4;grid-row:span 2}
figcaption{font-size:13.5px;color:var(--soft);margin-bottom:4px}
figcaption b{color:var(--ink);display:block}
svg.map,svg.plot{width:100%;height:auto;display:block}
svg.plot{max-width:820px;min-width:600px}
.sideways{overflow-x:auto}
.map text,.plot text{fill:var(--soft)}
.map text{font-size:calc(var(--side)*1px/27)}
.wide .map text{font-size:calc(var(--side)*1px/44)}
.key{stroke:var(--line);stroke-width:.5}
.hole{fill:var(--bg)}.hatch{fill:var(--hatch)}.untried{fill:var(--untried)}
.ring{fill:none;stroke:var(--ink);stroke-width:1.4}
.cross{stroke:var(--ink);stroke-width:.9;fill:none}
.cell{stroke:var(--line);stroke-width:.5}
.pick{cursor:pointer}.pick:hover rect{stroke:var(--ink);stroke-width:1.2}
.plot .grid{stroke:var(--line)}.plot .zero{stroke:var(--soft)}
.plot .front{stroke:var(--up);stroke-width:1.5;fill:none}
.plot .pt{fill:var(--soft);opacity:.45}.plot .held{fill:var(--up)}.plot .name{fill:var(--ink)}
.scroll{overflow-x:auto;margin-top:12px;border:1px solid var(--line);border-radius:10px;
background:var(--card)}
.tall{max-height:560px;overflow-y:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:7px 11px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
td small{display:block;font-size:11.5px;color:var(--soft)}
tr:last-child td{border-bottom:0}
th{position:sticky;top:0;background:var(--wash);font-weight:600;z-index:1}
th button{position:relative;font:inherit;color:inherit;
background:none;border:0;padding:0;cursor:pointer}
th[aria-sort=ascending] button::after{content:"\\2191"}
th[aria-sort=descending] button::after{content:"\\2193"}
th button::after{position:absolute;right:-.8em}
.l{text-align:left}
td.wrap{white-space:normal;min-width:220px;text-align:left;overflow-wrap:anywhere}
tr.faint td{color:var(--soft)}
tbody tr.open-row{cursor:pointer}tbody tr.open-row:hover{background:var(--wash)}
.pos{color:var(--up)}.neg{color:var(--down)}
button:focus-visible,select:focus-visible,a:focus-visible,summary:focus-visible,tr:focus-visible,
.pick:focus-visible{outline:2px solid var(--link);outline-offset:2px}
.bar-row{display:flex;flex-wrap:wrap;gap:10px 18px;align-items:end;margin-top:12px}
label{font-size:13px;color:var(--soft);display:grid;gap:3px}
select{font:inherit;font-size:14px;color:var(--ink);background:var(--card);max-width:100%;
border:1px solid var(--line);border-radius:7px;padding:5px 8px}
details{margin-top:12px}summary{cursor:pointer}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(320px,100%),1fr));gap:8px 28px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--wash);border-radius:7px;
padding:10px 12px;margin:4px 0;max-height:320px;overflow:auto}
td.detail{white-space:normal;text-align:left;background:var(--bg);padding:14px}
.probs{display:grid;grid-template-columns:minmax(2em,auto) 1fr auto;gap:2px 8px;
align-items:center;font-size:13px;margin:4px 0}
.probs i{display:block;height:8px;background:var(--soft);border-radius:2px;min-width:1px}
.probs .right i{background:var(--more)}
.probs>div{display:contents}
footer{max-width:1180px;margin:56px auto 0;padding:18px 24px 48px;color:var(--soft);
font-size:13px;border-top:1px solid var(--line)}
@media (max-width:820px){main,header,footer{padding-left:16px;padding-right:16px}
header{padding-top:24px}h1{font-size:24px}
.maps{grid-template-columns:repeat(2,1fr)}
figure,figure.wide{grid-column:span 2;grid-row:auto}
.wide .map text{font-size:calc(var(--side)*1px/27)}}
@media (min-width:560px) and (max-width:820px){figure:not(.wide){grid-column:span 1}}
@media print{.tall{max-height:none}}
"""

JS = """
"use strict";
const $ = (q, of = document) => of.querySelector(q);
const make = (tag, text, cls) => {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (cls) e.className = cls;
  return e;
};
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const th = button.parentElement, row = th.parentElement, at = [...row.children].indexOf(th);
    const down = th.getAttribute("aria-sort") !== "descending";
    for (const other of row.children) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = th.closest("table").tBodies[0], sign = down ? -1 : 1;
    const key = r => r.children[at].dataset.sort;
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const d = Number(x) - Number(y);
      return sign * (Number.isNaN(d) ? x.localeCompare(y) : d);
    });
    body.append(...rows);
  });
}
const data = JSON.parse($("#items").textContent);
const who = $("#who"), stage = $("#stage"), which = $("#which"), out = $("#answers");
const option = (select, value, text) => {
  const o = make("option", text);
  o.value = value;
  select.append(o);
};
const sign = x => x === null ? "" : (x > 0 ? "+" : "") + x.toFixed(2);
function stages() {
  const c = data.candidates[who.value], kept = stage.value;
  stage.replaceChildren();
  for (const s of c ? Object.keys(c.stages) : []) option(stage, s, s);
  if (c && kept in c.stages) stage.value = kept;
  else if (c) stage.selectedIndex = stage.options.length - 1;
  show();
}
function side(name, line, gold) {
  const box = make("div");
  box.append(make("b", name));
  const score = line.score ?? "none";
  box.append(make("div", `${line.status}, parsed ${line.parsed}, score ${score}`, "soft"));
  for (const options of line.probabilities || []) {
    const list = make("div", undefined, "probs");
    for (const [o, p] of Object.entries(options).sort((a, b) => b[1] - a[1]).slice(0, 10)) {
      const row = make("div", undefined, o.trim() === gold ? "right" : "");
      const bar = make("i");
      bar.style.width = `${100 * p}%`;
      const track = make("span");
      track.append(bar);
      row.append(make("span", o, "mono"), track, make("span", p.toFixed(3)));
      list.append(row);
    }
    box.append(list);
  }
  if (line.response) box.append(make("pre", line.response));
  return box;
}
function show() {
  out.replaceChildren();
  const c = data.candidates[who.value], mine = c && c.stages[stage.value];
  const base = data.base[stage.value] || {};
  let shown = 0;
  for (const [id, line] of Object.entries(mine || {})) {
    const old = base[id];
    if (!old) continue;
    const unscored = line.score === null || old.score === null;
    const d = unscored ? null : line.score - old.score;
    const fits = {all: true, wins: d > 0, losses: d < 0, unread: line.status !== "ok"};
    if (!fits[which.value]) continue;
    const item = data.about[id], row = make("tr", undefined, "open-row");
    row.tabIndex = 0;
    row.setAttribute("aria-expanded", "false");
    row.append(make("td", id, "l mono"), make("td", item.family, "l"),
      make("td", item.topic, "l"), make("td", item.gold), make("td", old.parsed),
      make("td", line.parsed), make("td", sign(d), d > 0 ? "pos" : d < 0 ? "neg" : "soft"));
    const flip = () => {
      const next = row.nextElementSibling;
      if (next && next.dataset.of === id) {
        row.setAttribute("aria-expanded", "false");
        next.remove();
        return;
      }
      row.setAttribute("aria-expanded", "true");
      const more = make("tr"), cell = make("td", undefined, "detail"), two = make("div");
      more.dataset.of = id;
      cell.colSpan = 7;
      two.className = "two";
      if (item.question) cell.append(make("pre", item.question));
      two.append(side("base", old, item.gold), side(c.label, line, item.gold));
      cell.append(two);
      more.append(cell);
      row.after(more);
    };
    row.addEventListener("click", flip);
    row.addEventListener("keydown", e => {
      if (e.key === "Enter" || e.key === " ") {
        e.preventDefault();
        flip();
      }
    });
    out.append(row);
    shown += 1;
  }
  $("#count").textContent = `${shown} items`;
}
for (const [name, c] of Object.entries(data.candidates)) option(who, name, c.label);
who.addEventListener("change", stages);
stage.addEventListener("change", show);
which.addEventListener("change", show);
for (const g of document.querySelectorAll("[data-candidate]")) {
  g.addEventListener("click", () => {
    if (!(g.dataset.candidate in data.candidates)) return;
    who.value = g.dataset.candidate;
    stages();
    $("#drill").scrollIntoView({behavior: "smooth"});
  });
}
stages();
"""
