"""What every script does around its method: flags, data, the original, the checkpoint, and errors in one line."""

import argparse
import datetime
import functools
import hashlib
import json
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import torch

import data
import devices
import models
import parallel
from errors import RunFailed, UserError

# Flags that say where and how loudly to compute; all others make a run what it is.
_CIRCUMSTANCES = {"data_dir", "device", "cache", "weights", "original", "output", "overwrite", "reuse", "plot"}
_CIRCUMSTANCES |= {"command", "quiet", "jobs"}
CACHE_MIB = 4096


class PerModel(dict):
    """A default that depends on the network: {"resnet8": 3e-3, "paper": 1e-3}, "paper" for every other network."""

    def __str__(self):
        rest = ", ".join(f"{value:g} for {name}" for name, value in self.items() if name != "paper")
        return f"{self['paper']:g}" + (f"; {rest}" if rest else "")


def parser(doc, *, epochs, lr, batch_size=128, forget=True, original=True):
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


def add_data_flags(parser):
    """--dataset and what selects images from it."""
    parser.add_argument("--dataset", default="fashion-mnist", help=f"{', '.join(data.NAMES)} (default: fashion-mnist)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--subset", type=positive_int, help="keep this many training images, all classes alike")
    parser.add_argument("--test-subset", type=positive_int, help="keep this many test images, all classes alike")
    parser.add_argument(
        "--validation", type=float, default=0.0, help="share of the training images to score on in the test set's place"
    )
    parser.add_argument("--img-size", type=positive_int, default=32, help="side of folder: images in pixels (default: 32)")


def add_forget_flags(parser):
    """The three ways to name a forget set."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--forget-class", type=int, nargs="+", metavar="CLASS", help="forget these classes, by number")
    group.add_argument("--forget-random", type=float, metavar="SHARE", help="forget this share (0 to 1) of the images")
    group.add_argument("--forget-file", type=Path, metavar="FILE", help="forget the images numbered in FILE, one a line")


def add_device_flags(parser):
    """--device and --precision."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="arithmetic (default: the faster of the two for network and device)"
    )


def add_cache_flag(parser):
    """--cache."""
    parser.add_argument(
        "--cache",
        type=not_negative,
        default=CACHE_MIB,
        metavar="MIB",
        help="memory for the outputs of what is frozen, so that it runs once; more goes to a file in --weights; 0: run it "
        f"each time (default: {CACHE_MIB})",
    )


def positive_int(text):
    """argparse type: an integer above 0."""
    if (value := int(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def not_negative(text):
    """argparse type: an integer from 0 on."""
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def positive_float(text):
    """argparse type: a finite number above 0."""
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share(text):
    """argparse type: a number above 0 and below 1."""
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def main(run, parser):
    """Parse the command line, call run(config) and turn its errors into one line and an exit code."""
    try:
        config = parser.parse_args()
        config.command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
        run(config)
    except (UserError, RunFailed) as error:
        if parallel.leads():
            print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped; the same command continues", file=sys.stderr)
        sys.exit(130)


@functools.lru_cache(maxsize=1)
def load_data_by(*arguments):
    """`data.load`, the last set kept, so that several runs in one process read it once."""
    return data.load(*arguments)


def load_data(config):
    """The data set that the flags name."""
    return load_data_by(
        config.dataset, config.data_dir, config.subset, config.validation, config.img_size, config.test_subset
    )


def settings_of(config):
    """The flags that make a run what it is, as plain values."""
    return {key: _plain(value) for key, value in vars(config).items() if key not in _CIRCUMSTANCES}


def data_of(config, dataset):
    """What a file says of the data that it was made with."""
    flags = ("dataset", "subset", "validation", "img_size", "test_subset")
    return {flag: getattr(config, flag) for flag in flags} | {"tag": dataset.tag, "fingerprint": dataset.fingerprint}


def data_arguments(spec, data_dir):
    """The arguments of `load_data_by` for what `data_of` has written."""
    flags = ("subset", "validation", "img_size", "test_subset")  # the last is unknown to files of earlier versions
    return spec["dataset"], data_dir, *(spec.get(flag) for flag in flags)


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
    config.device = devices.resolve_device(config.device)
    model.to(config.device)
    config.precision = config.precision or devices.best_precision(model, config.device)
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

    config.quiet = config.quiet or not parallel.leads()
    kept = data.retain_indices(len(dataset.train), forget)
    before = models.state(model)
    with parallel.together(config.device):
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
            "device": device_name(config.device) + (f" x {parallel.count()}" if parallel.count() > 1 else ""),
            "versions": versions(),
            "date": datetime.date.today().isoformat(),
        }
        if parallel.leads():
            models.write_atomically(config.output, checkpoint)
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


def provenance(command, hardware):
    """What every result file says of where its numbers come from."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "hardware": hardware,
        "versions": versions(),
    }


def versions():
    """Versions of Python and of the libraries that make the numbers."""
    names = ("torch", "torchvision", "timm", "peft", "scikit-learn", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def device_name(device):
    """The device in words: the GPU's name, or the CPU's with the number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


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
    return checkpoint | {"sha256": models.sha256(config.original)}


def _file_name(method, config, data_tag, forget_tag=None):
    network = config.model.replace("/", "-")
    if forget_tag is None:
        return f"{data_tag}_{network}_{method}_s{config.seed}.pth"
    flags = "".join(flag.replace(" ", "-").replace("--", "-") for flag in variant(vars(config)))
    return f"{data_tag}_{network}_{forget_tag}_{method}{config.epochs}{flags}_s{config.seed}.pth"


def _plain(value):
    return str(value) if isinstance(value, Path) else value
