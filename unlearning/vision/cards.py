"""README.md of what is handed on: a network's folder for timm, an adapter's for PEFT. With the lines that use it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from unlearning.core.errors import UserError
from unlearning.images.checkpoints import listed_in
from unlearning.reports import results, tables
from unlearning.vision.identity import digest, first_parent
from unlearning.vision.timm_folder import Plain, plain_of

Record = Mapping[str, Any]  # of a checkpoint what it says of itself: "network", "method", "forget", "command", ...

SILENCE = """\
for name, kept in load_file("{folder}/mask.safetensors").items():  # what was pruned before
    for key, tensor in net.named_parameters():
        if f"{{key}}.".startswith(f"{{name}}."):
            tensor.data[~kept] = 0"""


def network(checkpoint: Record, folder: str, source: str, scores: str = "") -> str:
    """The card of a network for timm. folder: its name. source: SHA-256 of its checkpoint. scores: tables, in Markdown."""
    arguments = checkpoint["network"]["arguments"]
    size = arguments.get("input_size")
    lines = [
        "import timm, torch",
        f'net = timm.create_model("local-dir:{folder}", pretrained=True).eval()',
        'mean, std = (torch.tensor(net.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))',
        *_resized(arguments),
        f"logits = net((images - mean) / std)  # {_images(arguments)}",
        'names = net.pretrained_cfg.get("label_names")  # of the classes, where they are known',
    ]
    resized = f" Images are resized bilinearly to {size} pixels before they are normalised." if size else ""
    parts = [
        _head("timm", "machine-unlearning"),
        f"# {checkpoint['network']['name']} {_without(checkpoint)}",
        f"An image classifier, as timm loads it (1.0.20 or newer).{resized}",
        "\n".join([*_facts(checkpoint), f"- Made from a checkpoint of SHA-256 `{source}`."]),
        "## Use\n\n" + _block(lines),
        scores and f"## Scores\n\n{scores}",
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def adapter(record: Record, net: nn.Module, folder: str, masked: bool, compact: bool) -> str:
    """The card of an adapter. net: the plain network that it fits. folder: its name. masked: True where a mask lies beside
    it. compact: True where the network was made smaller by that before it was adapted."""
    arguments = record["network"]["arguments"]
    # Of what is unlearned again the parent is a checkpoint of this project, wherever the first original is from.
    original, file = "`ORIGINAL.pth` is the checkpoint", None
    if record.get("elsewhere") and record.get("origin") == record.get("parent"):
        file = f"ORIGINAL{Path(record['elsewhere']).suffix}"
        original = f"`{file}` is what others have trained, a file or folder"
    if file:
        fits = "It fits the original as this project reads it."
        lines = _read_from_elsewhere(record, file, folder)
    elif compact:
        fits = "It fits the original without the channels that its mask names, which this project takes out."
        own, imported = _own(record["network"])
        making = f", own={own}" if imported else ""
        lines = [
            "import models",
            *imported,
            "from unlearning.vision import adapter_files",
            f'original = models.build(models.load_checkpoint("ORIGINAL.pth"){making})',
            f'adapted = adapter_files.load(original, "{folder}")',
            f"logits = adapted(images)  # {_images(arguments)}",
        ]
    else:
        fits = "It fits the plain network, which takes normalised images."
        lines = [
            "import timm, torch",
            "from peft import PeftModel",
            *(["from safetensors.torch import load_file"] if masked else []),
            *_made_by_timm(plain_of(record["network"], net)),
            'state = torch.load("ORIGINAL.pth", weights_only=True)["state_dict"]',
            'net.load_state_dict({key[4:]: value for key, value in state.items() if key.startswith("net.")})',
            *([SILENCE.format(folder=folder)] if masked else []),
            f'net = PeftModel.from_pretrained(net, "{folder}").eval()',
            f"mean, std = (torch.tensor(x).view(-1, 1, 1) for x in ({arguments['mean']}, {arguments['std']}))",
            *_resized(arguments),
            f"logits = net((images - mean) / std)  # {_images(arguments)}",
        ]
    facts = [*_facts(record), f"- Original: {original}, of SHA-256 `{record.get('parent')}`."]
    parts = [
        _head("peft", "lora", "machine-unlearning"),
        f"# An adapter: {record['network']['name']} {_without(record)}",
        f"Low-rank changes of an image classifier, by which it forgets. {fits}",
        "\n".join(facts),
        "## Use\n\n" + _block(lines),
    ]
    return "\n\n".join(parts) + "\n"


def _read_from_elsewhere(record: Record, file: str, folder: str) -> list[str]:
    """The lines that use an adapter of a network that others have trained, whose file lies at `file`."""
    network = record["network"]
    entry = first_parent(record["identity"])["settings"].get("entry") if "identity" in record else None
    own, imported = _own(network)
    return [
        "from pathlib import Path",
        *imported,
        "from unlearning.vision import adapter_files, originals",
        f"network = {dict(network)!r}",
        f'original = originals.rebuilt(Path("{file}"), network, {entry!r}, {own})',
        f'adapted = adapter_files.load(original, "{folder}")',
        f"logits = adapted(images)  # {_images(network['arguments'])}",
    ]


def _own(network: Record) -> tuple[str, list[str]]:
    """What says in a line which function makes a network, "None" for one that isn't the user's own; and what it imports."""
    if ".py:" not in network["name"]:
        return "None", []
    return f'OwnNetwork.parse("{network["name"]}")', ["from unlearning.networks.own import OwnNetwork"]


def scores(file: Path, checkpoint: Record, path: Path) -> str:
    """The tables, in Markdown, of the rows in a result file that hold the checkpoint in `path`: those of its method in which
    one seed has cost just what it did, of an original one for each forget set. Raises UserError where there is none."""
    result = results.read(file)
    own = [row for row in result["rows"] if row["method"].split()[0] == checkpoint["method"] and _holds(row, checkpoint)]
    if not own:
        raise UserError(f"{file} has no row of {path}: evaluate.py {path} --json FILE writes one")
    results.say_if_changed(file)
    return tables.markdown(result | {"rows": own}).strip()


def _holds(row: dict[str, Any], checkpoint: Record) -> bool:
    """True if one seed of a row has the checkpoint's cost: seconds are measured, and no two runs take the same."""
    cost = {name: value for name, value in checkpoint["cost"].items() if "values" in row["metrics"].get(name, {})}
    seeds = zip(*(row["metrics"][name]["values"] for name in cost), strict=True)
    return "seconds" in cost and tuple(cost.values()) in seeds


def _head(library: str, *tags: str) -> str:
    """What the Hugging Face Hub reads of a card; it names no licence, which is the owner's to give."""
    listed = "\n".join(f"- {tag}" for tag in ("image-classification", *tags))
    return f"---\nlibrary_name: {library}\npipeline_tag: image-classification\ntags:\n{listed}\n---"


def _without(record: Record) -> str:
    """What a network has forgotten, as words of a heading."""
    if not len(record["forget"]):
        return f"({record['method']})"
    what = f"the images of {file}" if (file := listed_in(record)) else record["forget_tag"]
    return f"without {what}, by {record['method']}"


def _facts(record: Record) -> list[str]:
    """Lines of a list: network, data, method, forget set, command."""
    name, forget, of = record["network"]["name"], record["forget"], record["data"]
    size = record["network"]["arguments"]["img_size"]
    facts = [f"- Network: {name}, for images of {size} pixels."]
    if not of:
        facts += ["- Data, and what it has forgotten: the file that it was made from doesn't say."]
        return [*facts, f"- Origin: {record['command']}."]
    facts += [f"- Data: {of['tag']}, SHA-256 `{of['fingerprint']}`."] if of["fingerprint"] else ["- Data: ImageNet alone."]
    if len(forget):
        known, tag, file = record.get("classes") or [], record["forget_tag"], listed_in(record)
        numbers = [int(word) for word in tag[5:].split("-")] if re.fullmatch(r"class\d+(-\d+)*", tag) else []
        names = [known[number] for number in numbers if number < len(known) and known[number] != str(number)]
        facts += [
            f"- Forgotten: {len(forget):,} training images ({', '.join([file or tag, *names])}). SHA-256 of their "
            f"positions in the training set, ascending, as 64-bit integers: `{digest(forget)}`."
        ]
    else:
        facts += ["- Forgotten: nothing."]
    command = f", by `{record['command']}`" if record.get("command") else ""
    return [*facts, f"- Method: {record['method']}{command}."]


def _made_by_timm(plain: Plain | None) -> list[str]:
    """The line that makes a network without weights, and one more for a stem for small images."""
    if plain is None:
        return ["net = ...  # the network that the original is of"]
    arguments = ", ".join(f"{key}={value!r}" for key, value in plain.arguments.items())
    lines = [f'net = timm.create_model("{plain.architecture}", {arguments})']
    if plain.stem:
        stem = f"torch.nn.Conv2d({plain.arguments['in_chans']}, {plain.stem}, 3, padding=1, bias=False)"
        lines += [f"net.conv1, net.maxpool = {stem}, torch.nn.Identity()"]
    return lines


def _resized(arguments: Mapping[str, Any]) -> list[str]:
    """The line that resizes images, for a network that did so itself."""
    size = arguments.get("input_size")
    return [f'images = torch.nn.functional.interpolate(images, size={size}, mode="bilinear")'] if size else []


def _images(arguments: Mapping[str, Any]) -> str:
    """What a network takes, as a comment."""
    size = arguments["img_size"]
    return f"images: float32 (B, {arguments['in_chans']}, {size}, {size}) in [0, 1]"


def _block(lines: list[str]) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"
