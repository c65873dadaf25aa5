"""Write a checkpoint's network as an ONNX file, and check with onnxruntime that it answers alike.

Images go in as float32 (batch, channels, height, width) in [0, 1], any number of them; logits come out. A network that
--compact has made smaller is as small there.

    python export.py model_weights/fashion-mnist_resnet20_class3_loraprune5-compact-after_s0.pth --onnx small.onnx
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import models
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import sha256, write_bytes
from unlearning.core.flags import Parser, main

TOLERANCE = 1e-4  # of the largest logit
SOURCE = "checkpoint_sha256"  # where an ONNX file says what it was made from


def export(model: nn.Module, images: torch.Tensor, source: str = "") -> bytes:
    """`model`, on the CPU and in evaluation mode, as the bytes of an ONNX file.

    images: float32 (B, C, H, W) with B > 1, to check the file by. source: its checkpoint's SHA-256, which the file records.
    Raises RunFailed where onnxruntime answers differently.
    """
    onnxruntime = _onnxruntime()
    file = io.BytesIO()
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(model, (images,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    program.model.metadata_props[SOURCE] = source
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        for some in (images, images[:1]):
            expected = model(some).numpy()
            (answers,) = session.run(None, {session.get_inputs()[0].name: some.numpy()})
            finite = np.isfinite(expected)  # a mask's logit is minus infinity
            off = np.abs(answers[finite] - expected[finite]).max() / np.abs(expected[finite]).max()
            if not off < TOLERANCE or not np.array_equal(answers[~finite], expected[~finite]):
                raise RunFailed(f"the ONNX file answers differently, by {off:.2g} of the largest logit")
    return file.getvalue()


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
    parser.add_argument("checkpoint", type=Path, help="checkpoint of this project")
    parser.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    return parser


def run(args: argparse.Namespace, command: str, shared: None = None) -> Path:
    """Carry out the command line: the file's path."""
    checkpoint = models.load_checkpoint(args.checkpoint)
    source = sha256(args.checkpoint)
    if args.onnx.is_dir() or (args.onnx.exists() and args.onnx.samefile(args.checkpoint)):
        raise UserError(f"{args.onnx} is {'a folder' if args.onnx.is_dir() else 'the checkpoint itself'}")
    if args.onnx.exists() and not args.overwrite:
        if source_of(args.onnx) != source:
            raise UserError(f"{args.onnx} exists, made from something else; --overwrite replaces it")
        print(f"there already: {args.onnx}", file=sys.stderr, flush=True)
        return args.onnx
    model = models.build(checkpoint, args.checkpoint)
    arguments = checkpoint["network"]["arguments"]
    side = arguments["img_size"]
    content = export(model, torch.rand(8, arguments["in_chans"], side, side), source)
    write_bytes(args.onnx, content)
    print(f"{args.onnx}  ({len(content) / 2**20:.2f} MiB; onnxruntime answers alike)")
    return args.onnx


if __name__ == "__main__":
    main(run, parser())
