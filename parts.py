"""Systems of parts: private images split into parts, a learner for each, and a folder from which images are deleted exactly.

A learner depends on nothing but the images of its part, and on a start and a seed that no image has a say in. So a part that
is trained again without an image is what it would have been had the image never been there, and the other parts are that
already: bit for bit on the same device with the same number of threads. system.pth names the files that belong to the
system; it is replaced in one step after all new files are written, so a kill leaves the old state or the new one.
lmeraser.py and sisa.py differ in how they split and in who answers.
"""

import argparse
import datetime
import shutil
import sys
from pathlib import Path

import joblib
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import cli
import data
import devices
import imagenet
import models
import prompting
import training
from errors import UserError

SYSTEM = "system.pth"
AT_ONCE = 500  # images of a batch where features are computed
STARTUP = 15  # seconds that processes must save to be started


def train(method, split, config):
    """Train a system into a new folder and return its path.

    split: function of features float32 (N, F), a bool mask (N,) of private images, the anchors' positions int64 and config;
    returns the part of each image, int64 (N,), and the parts' centres float32 (K, F), or None where all parts vote.
    A killed training continues with the parts that are missing. Raises UserError when the folder exists.
    """
    dataset = cli.load_data(config)
    config.device = devices.resolve_device(config.device)
    source = _backbone_file(dataset, config)
    content = models.load_checkpoint(source)
    private, anchors = _private_and_anchors(dataset, content, config)
    without = _ids(config, dataset.train.labels, private, torch.empty(0, dtype=torch.int64))
    flags = cli.variant(vars(config) | {"lr_given": False, "parts": None})
    variant = "".join(flag.replace("--", "-").replace(" ", "-") for flag in flags)
    name = f"{dataset.tag}_{content['network']['name']}_{method}{config.parts}{variant}_s{config.seed}"
    folder = config.output or config.weights / name.replace("/", "-")
    if folder.exists() and not config.overwrite:
        if getattr(config, "reuse", False) and read(folder)["config"] == cli.settings_of(config):
            print(f"skipped, there already: {folder}", file=sys.stderr, flush=True)
            return folder
        raise UserError(f"{folder} exists; --overwrite computes it again")
    backbone = _backbone(content, source, config.device)
    state = {
        "format": models.FORMAT,
        "method": method,
        "backbone": {"file": str(source), "sha256": models.sha256(source), "network": content["network"]},
        "config": cli.settings_of(config),
        "data": cli.data_of(config, dataset),
        "shape": list(dataset.train.images.shape[1:]),
        "classes": len(dataset.classes),
        "private": private.nonzero().squeeze(1),
        "anchors": anchors,
        "deleted": without,
        "files": [],
        "ledger": [],
        "seed": config.seed,
        "device": cli.device_name(config.device),
        "versions": cli.versions(),
        "date": datetime.date.today().isoformat(),
        "command": config.command,
    }
    part = folder.with_name(f".{folder.name}.partial")
    part.mkdir(parents=True, exist_ok=True)
    _split(state, split, backbone, dataset, config)
    state["flops"] = _flops(backbone, state)
    state["cost"] = _train_parts(part, state, range(len(state["files"])), 0, backbone, dataset, config)
    models.write_atomically(part / SYSTEM, state)
    _sweep(part, state)
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    return folder


def delete(folder, split, config):
    """Delete the images that the flags name from the system in `folder`: train their parts again, write, add to the ledger.

    Raises UserError, with nothing changed, for images that are unknown, named twice, gone already or public.
    """
    state = read(folder)
    config = argparse.Namespace(**state["config"] | vars(config))
    config.device = devices.resolve_device(config.device)
    dataset = cli.load_data_by(*cli.data_arguments(state["data"], config.data_dir))
    if dataset.fingerprint != state["data"]["fingerprint"]:
        raise UserError(f"{folder} was trained on other data than this {dataset.tag}: their fingerprints differ")
    private = _mask(state["private"], len(dataset.train))
    ids = _ids(config, dataset.train.labels, private, state["deleted"])
    if not len(ids):
        raise UserError("nothing to delete: give --ids, --ids-file or --class")
    source = Path(state["backbone"]["file"])
    if not source.exists() or models.sha256(source) != state["backbone"]["sha256"]:
        raise UserError(f"the backbone {source} is missing or not the file that {folder} was trained on")
    backbone = _backbone(models.load_checkpoint(source), source, config.device)
    state["deleted"] = torch.cat([state["deleted"], ids]).sort().values
    if torch.isin(ids, state["anchors"]).any():  # private ones have shaped the parts, so all begin again
        _split(state, split, backbone, dataset, config)
        hit = list(range(len(state["files"])))
    else:
        hit = state["part"][ids].unique().tolist()
        state["part"][ids] = -1
    # Files of a new generation, so that none of those that system.pth names is touched.
    cost = _train_parts(Path(folder), state, hit, len(state["ledger"]) + 1, backbone, dataset, config)
    left = int((state["part"] >= 0).sum())
    state["ledger"].append(
        {
            "date": datetime.date.today().isoformat(),
            "command": config.command,
            "ids": ids.tolist(),
            "parts": hit,
            "full_sample_epochs": left * config.epochs,
            **cost,
        }
    )
    models.write_atomically(Path(folder) / SYSTEM, state)  # until here the old state holds
    _sweep(folder, state)
    return state["ledger"][-1]


def read(folder):
    """The state of a system. Raises UserError for any other folder."""
    state = models.read(Path(folder) / SYSTEM)
    if not isinstance(state, dict) or state.get("format") != models.FORMAT or "ledger" not in state:
        raise UserError(f"{folder} is not a system of this project (format {models.FORMAT})")
    return state


def assemble(folder):
    """A system as one checkpoint dictionary, as evaluate.py wants it; `private` says which training images it is about."""
    state = read(folder)
    there = [k for k, name in enumerate(state["files"]) if name]
    learners = [models.read(Path(folder) / state["files"][k]) for k in there]
    source = models.load_checkpoint(state["backbone"]["file"])
    network = prompting.Backbone(models.build(source, state["backbone"]["file"]))
    weights = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    weights |= {"prompts": torch.stack([learner["prompt"] for learner in learners])}
    weights |= {f"heads.{key}": torch.stack([learner[key] for learner in learners]) for key in ("weight", "bias")}
    routed = state["centres"] is not None
    weights |= {"centres": state["centres"][there]} if routed else {}
    arguments = {key: state[key] for key in ("shape", "classes")} | {"learners": len(there), "routed": routed}
    cost = state["ledger"][-1] if state["ledger"] else state["cost"]
    numbers = sum(learner[key].numel() for learner in learners for key in ("prompt", "weight", "bias"))
    inside = torch.isin(state["private"], state["deleted"]).nonzero().squeeze(1)  # positions among the private images
    return {
        **{key: state[key] for key in ("format", "method", "config", "data", "seed", "command", "device", "private")},
        "network": {"name": models.PROMPTED, "arguments": {"backbone": source["network"], **arguments}},
        "state_dict": weights,
        "forget": inside,
        "forget_tag": data.tag_of_ids(state["deleted"]) if len(inside) else None,
        "cost": {key: cost[key] for key in ("seconds", "memory_mib", "steps")} | {"trainable": numbers, "moved": numbers},
        "key": str(state["ledger"]),
    }


def _split(state, split, backbone, dataset, config):
    """Put images into parts, by what isn't deleted: fills state's part (-1: in none) and centres."""
    private, gone = (_mask(state[key], len(dataset.train)) for key in ("private", "deleted"))
    anchors = state["anchors"][~gone[state["anchors"]]]
    features = _features(backbone, dataset.train.images, config)
    part, state["centres"] = split(features, private, anchors, config)
    state["part"] = torch.where(private & ~gone, part, -1)
    state["files"] = [None] * (int(part.max()) + 1)


def _train_parts(folder, state, parts, generation, backbone, dataset, config):
    """Train the parts anew, write their files, name them in `state`; returns what it cost."""
    members = {k: (state["part"] == k).nonzero().squeeze(1) for k in parts}
    files = {k: f"part_{k:04d}_{generation:04d}.pth" for k in parts if len(members[k])}
    for k in parts:
        state["files"][k] = files.get(k)
    done = {k: models.read(folder / name) for k, name in files.items() if generation == 0 and (folder / name).exists()}
    done = {k: d for k, d in done.items() if d["config"] == state["config"] and torch.equal(d["members"], members[k])}
    seconds = sum(d["seconds"] for d in done.values())  # of an earlier run, which was killed
    started = devices.now(config.device)
    missing = {k: dataset.train.take(members[k]) for k in files if k not in done}
    with tqdm(total=len(missing), desc="parts", unit=" parts", leave=False, disable=config.quiet or None) as bar:
        for learned in _learn_all(missing, backbone, dataset.flip, state, config):
            k = learned["part"]
            done[k] = learned | {"members": members[k]}
            models.write_atomically(folder / files[k], done[k])
            bar.update()
    images = sum(map(len, members.values()))
    return {
        "images": images,
        "sample_epochs": images * config.epochs,
        "flops": images * config.epochs * state["flops"],
        "steps": sum(d["steps"] for d in done.values()),
        "seconds": seconds + devices.now(config.device) - started,
        "memory_mib": max((d["memory_mib"] for d in done.values()), default=0.0),
    }


def _learn_all(missing, backbone, flip, state, config):
    """What `_learn` makes of each part: one after the other, or in processes where the first part says that it pays."""
    state = {key: state[key] for key in ("shape", "classes", "config")}
    tasks = [(backbone, data.Split(x.images, x.labels), flip, k, state, config) for k, x in missing.items()]
    if not tasks:
        return
    first = _learn(*tasks[0])
    yield first
    left = first["seconds"] * sum(map(len, missing.values())) / len(tasks[0][1]) - first["seconds"]
    jobs = config.jobs or (joblib.cpu_count() if config.device == "cpu" else 1)
    jobs = jobs if left * (1 - 1 / jobs) > STARTUP else 1
    yield from joblib.Parallel(jobs, return_as="generator")(joblib.delayed(_learn)(*task) for task in tasks[1:])


def _learn(backbone, images, flip, k, state, config):
    """Train one learner on `images`, mirrored at random if `flip`: what its file holds.

    On a CPU one part of several has one thread, so that its bits are the same in a process of its own.
    """
    torch.manual_seed(config.seed)  # one start for all parts
    learner = prompting.Learner(backbone, state["shape"], state["classes"]).to(config.device)
    groups = [
        {"params": [learner.prompt], "lr": config.lr, "weight_decay": 1e-4},
        {"params": learner.head.parameters(), "lr": config.head_lr, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    steps = config.epochs * -(-len(images) // config.batch_size)
    circumstances = argparse.Namespace(
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed * 100_003 + k,
        device=config.device,
        precision=config.precision or "fp32",
        quiet=True,
        snapshot=None,
        cost={},
    )
    augment = data.crop_and_flip if flip else data.random_crop
    scheduler = training.warm_up_and_cosine(optimizer, steps, steps // 5)
    with devices.threads(1 if state["config"]["parts"] > 1 and config.device == "cpu" else None):
        training.fit(learner, images, optimizer, circumstances, scheduler=scheduler, augment=augment, freeze_norm=True)
    trained = {
        "prompt": learner.prompt.detach().cpu(),
        "weight": learner.head.weight.detach().cpu(),
        "bias": learner.head.bias.detach().cpu(),
    }
    return trained | circumstances.cost | {"part": k, "seed": circumstances.seed, "config": state["config"]}


def _sweep(folder, state):
    """Remove files that don't belong to the state any more, or never came to."""
    for file in Path(folder).glob("part_*.pth"):
        if file.name not in state["files"]:
            file.unlink()


def _backbone_file(dataset, config):
    """The backbone's checkpoint. ImageNet weights under a network's name are written as one first."""
    path = Path(config.backbone)
    if path.suffix == ".pth":
        if not path.exists():
            raise UserError(f"no backbone {path}")
        return path
    path = config.weights / f"{dataset.tag}_{config.backbone.replace('/', '-')}-{config.input_size}_imagenet.pth"
    if not path.exists():
        model, arguments = models.create_for(config.backbone, dataset, config.data_dir, config.input_size)
        write_backbone(path, model, {"name": config.backbone, "arguments": arguments})
    return path


def write_backbone(path, model, network):
    """A checkpoint of a network that has seen none of the data; network: its name and the arguments of models.create."""
    nothing = {"config": {}, "forget": torch.empty(0, dtype=torch.int64), "forget_tag": None, "seed": 0, "cost": {}}
    content = {"format": models.FORMAT, "method": "imagenet", "network": network, "state_dict": model.state_dict()}
    models.write_atomically(path, content | nothing | {"data": {"fingerprint": None}, "key": "imagenet"})


def _backbone(content, source, device):
    return prompting.Backbone(models.build(content, source)).to(device).eval()


def _private_and_anchors(dataset, content, config):
    """A bool mask (N,) of the private training images, and the anchors' positions.

    A backbone that was trained on a part of these data has seen what isn't in its forget set: that is public. One with
    ImageNet weights has seen none of them: the anchors are set apart as public, but for --anchors-from private.
    """
    count = len(dataset.train)
    private = torch.ones(count, dtype=torch.bool)
    if content["data"]["fingerprint"]:
        if content["data"]["fingerprint"] != dataset.fingerprint:
            raise UserError(f"{config.backbone} was trained on other data than this {dataset.tag}")
        if not len(content["forget"]):
            raise UserError(f"{config.backbone} has seen all images, so none is private; train it with retrain.py")
        private = _mask(content["forget"], count)
    from_private = config.anchors_from == "private"
    candidates = (private if from_private or private.all() else ~private).nonzero().squeeze(1)
    if not 0 < config.anchors < len(candidates):
        raise UserError(f"--anchors {config.anchors}: there are {len(candidates)} images to choose from, and some must stay")
    anchors = candidates[data.stratified(dataset.train.labels[candidates], config.anchors)]
    if not from_private:
        private[anchors] = False
    return private, anchors


def _ids(config, labels, private, deleted):
    """Positions, ascending int64, that --ids, --ids-file and --class name; of a class those that aren't deleted yet."""
    ids = list(config.ids or [])
    if config.ids_file:
        try:
            ids += [int(word) for word in config.ids_file.read_text().split()]
        except (OSError, ValueError) as error:
            raise UserError(f"--ids-file {config.ids_file}: not a list of image numbers ({error})") from None
    if wrong := [i for i in ids if not 0 <= i < len(labels)]:
        raise UserError(f"image {wrong[0]}: image numbers run from 0 to {len(labels) - 1}")
    if len(set(ids)) < len(ids):
        raise UserError(f"image {next(i for i in ids if ids.count(i) > 1)} is named twice")
    if public := [i for i in ids if not private[i]]:
        raise UserError(f"image {public[0]} is public: the backbone or the centres know it")
    if again := set(ids) & set(deleted.tolist()):
        raise UserError(f"image {min(again)} is deleted already")
    if config.forget_class is not None:
        there = private & ~_mask(deleted, len(labels))
        of_class = ((labels == config.forget_class) & there).nonzero().squeeze(1)
        if not len(of_class):
            raise UserError(f"--class {config.forget_class}: no private image is of this class")
        ids += of_class.tolist()
    return torch.tensor(sorted(set(ids)), dtype=torch.int64)


def _mask(positions, count):
    """Positions int64 as a bool mask (count,)."""
    return torch.isin(torch.arange(count), positions)


def _features(backbone, images, config):
    """Features float32 (N, F) of images without a prompt, on the CPU."""
    with torch.no_grad():
        some = data.batches(images, torch.arange(len(images)).split(AT_ONCE))
        return torch.cat([backbone(devices.to_float(x.to(config.device))).cpu() for x in some])


def _flops(backbone, state):
    """FLOPs of one image forward and backward through backbone, prompt and head, as PyTorch counts them."""
    learner = prompting.Learner(backbone, state["shape"], state["classes"])
    device = next(backbone.parameters()).device
    with FlopCounterMode(display=False) as counter:
        learner.to(device)(torch.zeros(1, *state["shape"], device=device)).sum().backward()
    return counter.get_total_flops()


def show(folder):
    """Print what a system consists of and what has been deleted from it."""
    state = read(folder)
    sizes = state["part"][state["part"] >= 0].bincount()
    sizes = sizes[sizes > 0]
    print(f"{state['method']}: {len(sizes)} parts of {sizes.min()} to {sizes.max()} images on {state['backbone']['file']}")
    print(f"{len(state['private'])} private images, {len(state['deleted'])} deleted; {len(state['anchors'])} anchors")
    for entry in state["ledger"]:
        ratio = entry["full_sample_epochs"] / max(1, entry["sample_epochs"])
        print(
            f"{entry['date']}  {len(entry['ids'])} images, {len(entry['parts'])} parts trained again: "
            f"{entry['sample_epochs']:,} sample-epochs ({ratio:.1f} times fewer than all), {entry['seconds']:.1f} s"
        )


def parser(doc, *, parts, split_help):
    """The command line of a kind of system, which trains, deletes and shows, and the part of it that trains, for flags of
    the system's own. parts: the default number; split_help: what they are."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True, help="train a system, delete from it, show it")
    trainer = actions.add_parser("train", help="train a system into a folder")
    cli.add_data_flags(trainer)
    trainer.add_argument(
        "--backbone",
        default=imagenet.MODEL,
        help=f"a network's name, for its ImageNet weights, or a checkpoint of retrain.py (default: {imagenet.MODEL})",
    )
    trainer.add_argument("--input-size", type=cli.positive_int, default=48, help="side in pixels it resizes images to")
    trainer.add_argument("--parts", type=cli.positive_int, default=parts, help=f"{split_help} (default: {parts})")
    trainer.add_argument("--anchors", type=cli.positive_int, default=1000, help="images that make the centres")
    trainer.add_argument(
        "--anchors-from",
        choices=("public", "private"),
        default="public",
        help="private: anchors can be deleted, and all parts are then trained again (default: public)",
    )
    trainer.add_argument("--epochs", type=cli.positive_int, default=10, help="passes over a part's images (default: 10)")
    trainer.add_argument("--batch-size", type=cli.positive_int, default=32, help="images a step (default: 32)")
    trainer.add_argument("--lr", type=cli.positive_float, default=0.5, help="learning rate of the prompt (default: 0.5)")
    trainer.add_argument(
        "--head-lr", type=cli.positive_float, default=0.01, help="learning rate of the head (default: 0.01)"
    )
    trainer.add_argument("--seed", type=int, default=0, help="seed of the start and of all batches (default: 0)")
    trainer.add_argument("--weights", type=Path, default=Path("model_weights"), help="folder of systems and backbones")
    trainer.add_argument("--output", type=Path, help="folder to write (default: a telling name in --weights)")
    trainer.add_argument("--overwrite", action="store_true", help="compute again what exists")
    _add_id_flags(trainer, "leave out, as if never there,")
    deleter = actions.add_parser("delete", help="delete images from a system")
    deleter.add_argument("folder", type=Path, help="the system")
    deleter.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of data files (default: data)")
    _add_id_flags(deleter, "delete")
    cli.add_device_flags(trainer)
    deleter.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: a GPU if there is one)")
    for action in (trainer, deleter):
        action.add_argument(
            "--jobs",
            type=cli.positive_int,
            help="parts trained at a time, in processes of one thread, where that is faster (default: the CPUs; on a GPU 1)",
        )
        action.add_argument("--quiet", action="store_true", help="no progress")
    shower = actions.add_parser("show", help="print a system's parts and its ledger")
    shower.add_argument("folder", type=Path, help="the system")
    return parser, trainer


def _add_id_flags(parser, what):
    parser.add_argument("--ids", type=int, nargs="+", metavar="ID", help=f"{what} these training images, by number from 0")
    parser.add_argument("--ids-file", type=Path, metavar="FILE", help=f"{what} the images numbered in FILE, one a line")
    parser.add_argument("--class", type=int, dest="forget_class", metavar="CLASS", help=f"{what} all images of this class")


def run(method, split, config):
    """Carry out one of the command line's actions and return the system's folder."""
    folder = train(method, split, config) if config.action == "train" else config.folder
    if config.action == "delete":
        delete(folder, split, config)
    if config.action == "show" or not config.quiet:
        show(folder)
    if config.action == "train" and not config.quiet:
        print(folder)
    return folder
