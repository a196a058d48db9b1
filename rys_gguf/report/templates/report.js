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
