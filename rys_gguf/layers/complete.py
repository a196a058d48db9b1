"""Whether a file holds every tensor that its architecture's engine expects."""

from __future__ import annotations

from rys_gguf.formats.model import Model
from rys_gguf.layers.rule import Architecture

_SHOWN_ISSUES = 5


def require_complete(model: Model, arch: Architecture) -> tuple[str, ...]:
    """Raise InvalidGGUF, naming up to five problems, unless llama.cpp would accept the tensors.

    Returns what the user should know about a file that not every llama.cpp accepts.
    """
    mtp_key = model.key("nextn_predict_layers")
    notes = []
    mtp = model.layers[model.n_trunk :]
    if any(mtp) and not any(model.layers[: model.n_trunk]):
        raise model.invalid("holds only MTP blocks, no layers; patch the model they belong to")
    issues = model.offset_issues()
    counted = model.layers
    if mtp and arch.absent_mtp and not any(mtp):
        counted = model.layers[: model.n_trunk]
        if arch.absent_mtp is not True:
            notes.append(
                f"{mtp_key} counts {len(mtp)} MTP {'block' if len(mtp) == 1 else 'blocks'} that "
                f"the source does not hold, and neither will the output: {arch.absent_mtp}"
            )
    elif mtp and any(mtp) and not any(".nextn." in t.name for t in mtp[0]):
        # llama.cpp would take the block for an MTP block and leave it out, with a warning at most.
        issues.append(
            f"{mtp_key} is {model.n_mtp}, but block {model.n_trunk} is "
            f"no MTP block: the MTP blocks were taken out and the key was left"
        )
    if not arch.empty_blocks:
        issues += [
            f"block {n} has no tensors, though {model.key('block_count')} is {model.block_count}"
            for n, tensors in enumerate(counted)
            if not tensors
        ]
    if issues:
        n_hidden = len(issues) - _SHOWN_ISSUES
        more = f"\n  and {n_hidden} more" if n_hidden > 0 else ""
        raise model.invalid("\n  ".join(issues[:_SHOWN_ISSUES]) + more)
    return tuple(notes)
