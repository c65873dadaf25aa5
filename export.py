"""Hand a checkpoint's network on: as an ONNX file, or as a folder for timm and the Hugging Face Hub.

The ONNX file is checked with onnxruntime, the folder with timm: either answers as the network does. Into ONNX go images as
float32 (batch, channels, height, width) in [0, 1], any number of them; logits come out. A network that --compact has made
smaller is as small there. Into timm's network go images normalised with the mean and std of its config. ViTs and timm's own
networks are timm's; ResNets with a stem for small images are not, and go into ONNX alone.

    python export.py model_weights/fashion-mnist_resnet20_class3_loraprune5-compact-after_s0.pth --onnx small.onnx
    python export.py model_weights/fashion-mnist_vit_micro_class3_lora5_s0.pth --timm vit_micro-class3
"""

import argparse
import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import check_writable, write_bytes
from unlearning.core.flags import Parser, main
from unlearning.core.locks import locked
from unlearning.core.paths import input_path, name_or_path, output_file, output_folder
from unlearning.core.words import first_line, say
from unlearning.networks.own import OwnNetwork
from unlearning.vision import cards, foreign, originals, timm_folder
from unlearning.vision.originals import Told

TOLERANCE = 1e-4  # of the largest logit
SOURCE = "checkpoint_sha256"  # where an ONNX file says what it was made from


def export(model: nn.Module, images: torch.Tensor, source: str = "") -> bytes:
    """`model`, on the CPU and in evaluation mode, as the bytes of an ONNX file.

    images: float32 (B, C, H, W) with B > 1, to check the file by. source: its checkpoint's SHA-256, which the file records.
    Raises UserError for a network that torch can't trace, and RunFailed where onnxruntime answers differently.
    """
    onnxruntime = _onnxruntime()
    file = io.BytesIO()
    batch = torch.export.Dim("batch")
    try:
        with _quietly():
            program = torch.onnx.export(model, (images,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        program.model.metadata_props[SOURCE] = source
        program.save(file)
    except Exception as error:  # the exporter has a kind of error for each of its steps
        raise UserError(f"torch can't write this network as ONNX ({first_line(error)})") from None
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        for some in (images, images[:1]):
            (answers,) = session.run(None, {session.get_inputs()[0].name: some.numpy()})
            off = timm_folder.difference(torch.from_numpy(answers), model(some))
            if not off < TOLERANCE:
                raise RunFailed(f"the ONNX file answers differently, by {off:.2g} of the largest logit")
    return file.getvalue()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch logs and prints of a network that it can't trace: pages of it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def source_of(file: Path) -> str | None:
    """SHA-256 of the checkpoint that an ONNX file was made from; None for any other file."""
    try:
        session = _onnxruntime().InferenceSession(file, providers=["CPUExecutionProvider"])
        return session.get_modelmeta().custom_metadata_map[SOURCE]
    except UserError:
        raise
    except Exception:  # onnxruntime has a kind of error for each way in which a file is none
        return None


def _onnxruntime():
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise UserError("export.py needs onnx, onnxscript and onnxruntime: pip install -r requirements-dev.txt") from None
    return onnxruntime


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        "checkpoint", type=input_path, help="checkpoint, or a network from elsewhere that says its image size"
    )
    parser.add_argument(
        "--model", type=name_or_path, metavar="FILE.py:FUNCTION", help="what makes the network, where that is your own"
    )
    parser.add_argument("--onnx", type=output_file, metavar="FILE", help="ONNX file to write")
    parser.add_argument(
        "--timm", type=output_folder, metavar="DIR", help="folder to write, for timm and the Hugging Face Hub"
    )
    text = "with --timm: result file of evaluate.py --json or a table, whose row of the checkpoint goes onto the card"
    parser.add_argument("--row", type=input_path, metavar="FILE", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace that file, and a folder that --timm has written")
    return parser


def run(args: argparse.Namespace, command: str, shared: None = None) -> Path:
    """Carry out the command line: the path of the folder, or else of the file."""
    if not (args.onnx or args.timm) or (args.row and not args.timm):
        raise UserError("--row belongs to --timm" if args.row else "nothing to write: give --onnx FILE, --timm DIR, or both")
    if args.onnx and args.timm and args.onnx.resolve().is_relative_to(args.timm.resolve()):
        raise UserError(f"--onnx {args.onnx} lies in the folder of --timm")
    if args.timm and args.timm.exists() and args.checkpoint.exists() and args.timm.samefile(args.checkpoint):
        raise UserError(f"{args.timm} is the network that is read itself")
    with contextlib.ExitStack() as held:
        for path in sorted(path.resolve() for path in (args.onnx, args.timm) if path):
            held.enter_context(locked(path))
        return _export(args)


def _export(args: argparse.Namespace) -> Path:
    """Write what isn't there yet."""
    own, (checkpoint, source) = OwnNetwork.parse(args.model), _read(args.checkpoint)
    if not foreign.is_called(own.name if own else args.model, name := checkpoint["network"]["name"]):
        raise UserError(f"{args.checkpoint} holds a {name}, not a {args.model}")
    scores = cards.scores(args.row, checkpoint, args.checkpoint) if args.row else ""
    onnx = args.onnx if args.onnx and not _onnx_is_there(args, source) else None
    folder = args.timm if args.timm and not timm_folder.is_there(args.timm, source, scores, args.overwrite) else None
    for path in {args.onnx, args.timm} - {onnx, folder, None}:
        say(f"there already: {path}")
    model = models.build(checkpoint, args.checkpoint, own)
    if folder:
        timm_folder.prepare(checkpoint, model)  # refused before anything is written
    if onnx:
        arguments = checkpoint["network"]["arguments"]
        side = arguments["img_size"]
        content = export(model, torch.rand(8, arguments["in_chans"], side, side), source)
        write_bytes(onnx, content)
        print(f"{onnx}  ({len(content) / 2**20:.2f} MiB; onnxruntime answers alike)")
    if folder:
        card = cards.network(checkpoint, folder.resolve().name, source, scores)
        timm_folder.write(folder, model, checkpoint, source, card)
        print(f"{folder}  (timm answers alike)")
    return args.timm or args.onnx


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """A checkpoint, or what one of a network from elsewhere would hold, and the SHA-256 of what was read."""
    content, sha = originals.checkpoint_and_digest(path)
    if content:
        return models.checked(content, path), sha
    return originals.alone(path, Told()), sha or originals.digest_of(path)


def _onnx_is_there(args: argparse.Namespace, source: str) -> bool:
    """True if the ONNX file was made from the checkpoint of SHA-256 `source`. Raises UserError where it can't be written."""
    file = args.onnx
    if file.is_dir() or (file.exists() and file.samefile(args.checkpoint)):
        raise UserError(f"{file} is {'a folder' if file.is_dir() else 'the checkpoint itself'}")
    if args.checkpoint.is_dir() and file.resolve().is_relative_to(args.checkpoint.resolve()):
        raise UserError(f"{file} lies in the folder that is read, {args.checkpoint}")
    if file.is_symlink():
        raise UserError(f"{file} is a link, which the network would replace: name what it leads to")
    check_writable(file.parent)
    if not file.exists():
        return False
    if args.overwrite:
        if source_of(file) is None:
            raise UserError(f"{file} is no ONNX file that was written here: move it, or give another --onnx")
        return False
    if source_of(file) != source:
        raise UserError(f"{file} exists, made from something else; --overwrite replaces it")
    return True


if __name__ == "__main__":
    main(run, parser())
