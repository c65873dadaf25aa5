"""What every script does around its method: flags, data, the original, the checkpoint, and errors in one line."""

import argparse
import datetime
import hashlib
import json
import sys
from pathlib import Path

import torch

import data
import models
from unlearning.core import distributed
from unlearning.core.device import best_precision, resolve_device
from unlearning.core.errors import UserError
from unlearning.core.files import sha256, write_torch
from unlearning.core.flags import PerModel, add_cache_flag, add_device_flags, positive_float, positive_int
from unlearning.core.provenance import device_name, versions
from unlearning.vision.flags import add_data_flags, add_forget_flags, data_of, load_data, settings_of


def method_parser(doc, *, epochs, lr, batch_size=128, forget=True, original=True):
    """An ArgumentParser with the flags that all methods share; epochs and lr are numbers or PerModel.

    forget: whether there is anything to forget. original: whether the method starts from one, or else from scratch.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_flags(parser)
    parser.add_argument(
        "--model", help=f"{', '.join(models.NAMES)} or a timm name (default: resnet20, or what --original holds)"
    )
    if original:
        parser.add_argument("--original", type=Path, help="checkpoint to start from (default: by name in --weights)")
    else:
        parser.add_argument("--pretrained", action="store_true", help="start from ImageNet weights (a timm name)")
        parser.add_argument("--input-size", type=positive_int, help="the network resizes images to this side in pixels")
    if forget:
        add_forget_flags(parser)
    parser.add_argument("--epochs", type=positive_int, default=epochs, help=f"passes over the images (default: {epochs})")
    parser.add_argument("--batch-size", type=positive_int, default=batch_size, help=f"images a step (default: {batch_size})")
    parser.add_argument("--lr", type=positive_float, default=lr, help=f"learning rate (default: {lr})")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and dropout (default: 0)")
    add_device_flags(parser)
    add_cache_flag(parser)
    parser.add_argument("--weights", type=Path, default=Path("model_weights"), help="folder of checkpoints")
    parser.add_argument("--output", type=Path, help="checkpoint to write (default: a telling name in --weights)")
    parser.add_argument("--overwrite", action="store_true", help="compute again what exists")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def execute(method, unlearn, config):
    """Run unlearn(model, retain, forget, config) on what the flags name and write its checkpoint: the path.

    Raises UserError before anything is computed when the output exists, or the original is missing or was trained on other
    data, another network or with another forget set. With config.reuse an output of the same settings is taken as it is.
    """
    dataset = load_data(config)
    if hasattr(config, "forget_class"):
        forget, forget_tag = data.forget_indices(
            dataset.train, config.forget_class, config.forget_random, config.forget_file
        )
    else:
        forget, forget_tag = torch.empty(0, dtype=torch.int64), None
    original = None
    if hasattr(config, "original"):
        original = _read_original(config, dataset, forget)
        config.model = original["network"]["name"]
    config.model = config.model or "resnet20"
    config.lr_given = not isinstance(config.lr, PerModel)
    for name, value in vars(config).items():
        if isinstance(value, PerModel):
            setattr(config, name, value.get(config.model, value["paper"]))
    config.output = config.output or config.weights / _file_name(method, config, dataset.tag, forget_tag)
    reuse = getattr(config, "reuse", False)
    if config.output.exists() and not config.overwrite and not reuse:
        raise UserError(f"{config.output} exists; --overwrite computes it again")

    torch.manual_seed(config.seed)
    if original:
        model, network = models.build(original, config.original), original["network"]
    else:
        weights = config.data_dir if config.pretrained else None
        model, arguments = models.create_for(config.model, dataset, weights, config.input_size)
        network = {"name": config.model, "arguments": arguments}
    config.device = resolve_device(config.device)
    model.to(config.device)
    config.precision = config.precision or best_precision(model, config.device)
    settings = settings_of(config)
    identity = [method, settings, dataset.fingerprint, forget.tolist(), original and original["sha256"]]
    config.key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    if config.output.exists() and not config.overwrite:
        if models.load_checkpoint(config.output)["key"] != config.key:
            raise UserError(f"{config.output} was made with other settings; --overwrite computes it again")
        print(f"skipped, there already: {config.output}", file=sys.stderr, flush=True)
        return config.output
    config.snapshot = config.output.with_name(config.output.name + ".partial")
    config.classes, config.flip, config.cost = len(dataset.classes), dataset.flip, {}

    config.quiet = config.quiet or not distributed.is_main()
    kept = data.retain_indices(len(dataset.train), forget)
    before = models.state(model)
    with distributed.process_group(config.device):
        model = unlearn(model, dataset.train.take(kept), dataset.train.take(forget), config).cpu()
        config.cost["moved"] = models.moved(before, models.state(model))
        checkpoint = {
            "format": models.FORMAT,
            "method": method,
            "network": network | ({"compact": True} if getattr(config, "compact", None) else {}),
            "state_dict": {key: value.contiguous() for key, value in model.state_dict().items()},
            "config": settings,
            "command": config.command,
            "key": config.key,
            "forget": forget,
            "forget_tag": forget_tag,
            "data": data_of(config, dataset),
            "parent": original and original["sha256"],
            "seed": config.seed,
            "cost": config.cost,
            "device": device_name(config.device) + (f" x {distributed.count()}" if distributed.count() > 1 else ""),
            "versions": versions(),
            "date": datetime.date.today().isoformat(),
        }
        if distributed.is_main():
            write_torch(config.output, checkpoint)
            config.snapshot.unlink(missing_ok=True)
    if not config.quiet:
        print(f"{config.output}  ({config.cost['seconds']:.1f} s, {config.cost['memory_mib']:,.0f} MiB)")
    return config.output


def variant(settings):
    """The flags that make another row of a method: a list such as ["--regrow", "--lr 0.003"]."""
    flags = [f"--{name.replace('_', '-')}" for name in ("prune_head", "regrow") if settings.get(name)]
    flags += [f"--compact {settings['compact']}"] if settings.get("compact") else []
    flags += ["--bn freeze"] if settings.get("bn") == "freeze" else []
    flags += [f"--parts {settings['parts']}"] if settings.get("parts") else []
    flags += [f"--linkage {settings['linkage']}"] if settings.get("linkage", "average") != "average" else []
    flags += [f"--shift {settings['shift']}"] if settings.get("shift", "random") != "random" else []
    flags += [f"--retain-weight {settings['retain_weight']:g}"] if settings.get("retain_weight") else []
    flags += [f"--saliency {settings['saliency']:g}"] if settings.get("saliency", 1) < 1 else []
    return flags + ([f"--lr {settings['lr']:g}"] if settings.get("lr_given") else [])


def _read_original(config, dataset, forget):
    """The checkpoint to start from, with its SHA-256, after checking that it belongs to these data and this request."""
    if config.original is None:
        name = _file_name("original", argparse.Namespace(model=config.model or "resnet20", seed=config.seed), dataset.tag)
        config.original = config.weights / name
        if not config.original.exists():
            raise UserError(f"no original {config.original}; train it with pretrain.py or name one with --original")
    checkpoint = models.load_checkpoint(config.original)
    if checkpoint["data"]["fingerprint"] != dataset.fingerprint:
        raise UserError(f"{config.original} was trained on {checkpoint['data']['tag']}, not on this {dataset.tag}")
    if config.model and config.model != checkpoint["network"]["name"]:
        raise UserError(f"{config.original} holds a {checkpoint['network']['name']}, not a {config.model}")
    if len(checkpoint["forget"]) and not torch.equal(checkpoint["forget"], forget):
        raise UserError(f"{config.original} has forgotten {checkpoint['forget_tag']} already; start from an original")
    return checkpoint | {"sha256": sha256(config.original)}


def _file_name(method, config, data_tag, forget_tag=None):
    network = config.model.replace("/", "-")
    if forget_tag is None:
        return f"{data_tag}_{network}_{method}_s{config.seed}.pth"
    flags = "".join(flag.replace(" ", "-").replace("--", "-") for flag in variant(vars(config)))
    return f"{data_tag}_{network}_{forget_tag}_{method}{config.epochs}{flags}_s{config.seed}.pth"
