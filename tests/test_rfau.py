"""RFAU and its baselines: what the loss is, what moves, what doesn't, and that unlearning can be undone."""

from collections import OrderedDict

import pytest
import torch
from peft import PeftModel
from torch import nn

import data
import models
import pretrain
import rfau
from baselines import badteacher, delete, gradascent, randomlabel
from tests.evaluation.test_entries import noisy_folder
from tests.helpers import FEW, FP32, call, one_line, record_of, rows_of
from unlearning.core.errors import UserError
from unlearning.core.files import Staged
from unlearning.metrics import predictions
from unlearning.networks.own import OwnNetwork
from unlearning.reports import paper_figures
from unlearning.vision import forget_losses
from unlearning.vision import run as run_module
from unlearning.vision.predict import predict
from unlearning.vision.run import Run
from unlearning.vision.settings import Settings
from unlearning.vision.snapshots import Snapshot


def unlearned(script, weights, path, model, *flags):
    """A checkpoint of `script` from the digits original, class 3 forgotten unless the flags say otherwise."""
    forget = () if any(str(flag).startswith("--forget-r") for flag in flags) else ("--forget-class", 3)
    common = ("--dataset", "digits", "--model", model, "--weights", weights, "--precision", "fp32", "--quiet")
    return models.load_checkpoint(call(script, *common, *forget, *flags, "--output", path))


def original(weights, model):
    return models.load_checkpoint(weights / f"digits_{model}_original_s0.pth")


def accuracies(checkpoint):
    """Accuracy in percent on class 3 of the training images and on the others."""
    train = data.load("digits").train
    logits, three = predict(models.build(checkpoint), train, FP32), train.labels == 3
    return [predictions.accuracy(logits[rows], train.labels[rows]) for rows in (three, ~three)]


@pytest.mark.parametrize(
    ("model", "shift"),
    [
        pytest.param(model, shift, marks=[pytest.mark.slow] * (model == "vit_micro" and shift != "mean"))
        for model in ("resnet8", "vit_micro")
        for shift in ("random", "mean", "head")
    ],
)
def test_with_lambda_0_no_bit_moves(few_digits, tmp_path, model, shift):
    """Where more images are drawn from D_r than it has, too: its features, cached, would be other ones in the last bit."""
    path = few_digits / f"{model}_original.pth"
    flags = (*FEW, "--original", path, "--forget-random", 0.51, "--epochs", 1, "--batch-size", 32)
    found = unlearned(rfau, tmp_path, tmp_path / "x", model, "--forget-weight", 0, "--shift", shift, *flags)
    assert 2 * len(found["forget"]) > 300 and found["cost"]["steps"] == 5 and found["cost"]["moved"] == 0
    before = models.load_checkpoint(path)["state_dict"]
    assert all(torch.equal(value, before[key]) for key, value in found["state_dict"].items())


@pytest.mark.parametrize("model", ["resnet8", "vit_micro"])
def test_a_class_is_forgotten_and_the_adapter_taken_off_brings_it_back(weights, tmp_path, model):
    found = unlearned(rfau, weights, tmp_path / "x.pth", model, "--epochs", 8, "--lr", 0.01, "--plot", tmp_path / "r.png")
    gone, kept = accuracies(found)
    had, kept_before = accuracies(original(weights, model))
    assert gone < had / 4 and kept > kept_before - 15
    assert (picture := (tmp_path / "r.png").read_bytes())[1:4] == b"PNG" and len(picture) > 10_000
    flags = ("--epochs", 8, "--plot", tmp_path / "r.png")
    with pytest.raises(UserError, match=r"--plot .*r.png is there already: --overwrite replaces it"):
        unlearned(rfau, weights, tmp_path / "y.pth", model, *flags)
    assert (tmp_path / "r.png").read_bytes() == picture
    (tmp_path / "r.png").write_bytes(b"my photograph")
    for plot, what in (
        ("r.png", "isn't as this project wrote it"),
        ("y.pth", "is where the checkpoint or its adapter goes"),
    ):
        flags = ("--epochs", 8, "--overwrite", "--plot", tmp_path / plot)
        with pytest.raises(UserError, match=what):
            unlearned(rfau, weights, tmp_path / "y.pth", model, *flags)
    assert (tmp_path / "r.png").read_bytes() == b"my photograph"
    base = models.build(original(weights, model))
    x = torch.rand(16, 1, 8, 8)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base.net, tmp_path / "x_adapter").eval()
        torch.testing.assert_close(adapted(base.normalize(x)), models.build(found)(x), atol=1e-4, rtol=1e-4)
    restored, before = adapted.unload().state_dict(), models.build(original(weights, model)).net.state_dict()
    assert all(torch.equal(value, restored[key]) for key, value in before.items())
    assert sum(file.stat().st_size for file in (tmp_path / "x_adapter").iterdir()) < 300_000


def test_residuals_stay_small_on_d_r_and_grow_on_d_f(weights, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(paper_figures, "residuals", lambda found, layers, file: drawn.extend((torch.tensor(found), layers)))
    flags = ("--epochs", 8, "--lr", 0.003, "--plot", tmp_path / "r.png")
    unlearned(rfau, weights, tmp_path / "x.pth", "vit_micro", *flags)
    found, layers = drawn
    assert layers == [f"net.blocks.{block}" for block in range(4)]
    assert found.shape == (8 * 19, 2, 4)
    assert (found[0] == 0).all()  # the zero start
    on_retain, on_forget = found[:, 0], found[:, 1]
    early, late = slice(3, 8), slice(-40, None)
    assert (on_forget[late].mean(0) > on_forget[early].mean(0)).all()  # shifted, layer by layer
    assert (on_retain[late].mean(0) < on_forget[late].mean(0)).all()  # held, layer by layer
    assert on_retain[late, -1].mean() < on_forget[late, -1].mean() / 2  # most where the head reads


def test_a_picture_of_a_run_that_was_killed_has_every_step(few_digits, tmp_path, monkeypatch, capsys):
    """The same as of one that wasn't, to the last bit; steps that were made without --plot are said."""
    drawn, write = [], Snapshot.write
    monkeypatch.setattr(paper_figures, "residuals", lambda found, layers, file: drawn.append(found))
    flags = (*FEW, "--original", few_digits / "resnet8_original.pth", "--epochs", 3, "--lr", 0.003)

    def run(name, *plot):
        unlearned(rfau, tmp_path, tmp_path / name, "resnet8", *flags, *plot)

    def killed_after_the_second(snapshot, *state):
        write(snapshot, *state)
        if state[3] == 2:
            raise KeyboardInterrupt

    run("whole.pth", "--plot", tmp_path / "w.png")
    for name, plot in (("x.pth", ("--plot", tmp_path / "x.png")), ("y.pth", ())):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Snapshot, "write", killed_after_the_second)
            run(name, *plot)
        capsys.readouterr()
        picture = tmp_path / f"{name}.png"
        picture.write_bytes(b"of another run")
        with pytest.raises(UserError, match="is there already: --overwrite replaces it"):
            run(name, "--plot", picture)
        picture.unlink()
        run(name, "--plot", picture)
    whole, continued, late = drawn
    assert len(whole) == 3 * 4 and continued == whole and late == whole[2 * 4 :]
    assert capsys.readouterr().err.count("--plot: 8 of 12 steps were made without it, and aren't drawn") == 1


class Toy(nn.Module):
    """A stem that passes the image on, two layers of two channels and a head, whose features can be worked out by hand:
    (x, 3 x), then (x, relu(3 x - 1.5)) of a pixel x from 0 to 1."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.stem.weight)
        self.layer1 = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 1, bias=False)))
        self.layer2 = nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 2, 1), relu=nn.ReLU()))
        self.fc = nn.Linear(2, 2)
        self.feature_info = [{"module": "layer1"}, {"module": "layer2"}]
        self.layer1.conv.weight.data = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
        self.layer2.conv.weight.data = torch.eye(2).view(2, 2, 1, 1)
        self.layer2.conv.bias.data = torch.tensor([0.0, -1.5])

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(self.stem(x))).flatten(1))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("shift", "start", "later"),
    [
        ("random", (0.1046154, 3.0584615), (0.1624615, 3.8455385)),
        ("mean", (0.5815385, 0.5815385), (0.5963077, 1.4116923)),
        ("head", (0.0492308, 3.5569231), (0.1969231, 4.0276923)),
        ("unseen", (3.0584615, 3.0584615), (3.8455385, 3.8455385)),
    ],
)
def test_the_loss_on_a_toy_network_is_what_the_formula_says(monkeypatch, tmp_path, shift, start, later, cached):
    """D_r holds the pixels 0 and 1: features (0, 0) and (1, 3), then (0, 0) and (1, 1.5). Unbiased variances over images
    are (0.5, 4.5) and (0.5, 1.125), their means over channels 2.5 and 0.8125; mean features (0.5, 1.5) and (0.5, 0.75).
    D_f holds 0.2: (0.2, 0.6), then (0.2, 0). The first number of a pair is for the draw of pixel 0 from D_r, the second
    for 1; lambda is 2.

    At the start residuals of D_r are 0. random, 1: 2 (3.2 / 2.5 + 1.445 / 0.8125) / 2; 0: 2 (0.2 / 2.5 + 0.02 / 0.8125) / 2.
    unseen: as random, 1, of which D_f has the class. mean: 2 (0.45 / 2.5 + 0.32625 / 0.8125) / 2. head: 2 * 1.445 / 0.8125
    and 2 * 0.02 / 0.8125, the last layer's alone.
    Later the first layer's update is (1, -1): features (2 x, 2 x), then (2 x, relu(2 x - 1.5)). Of D_r's pixel 1 the
    residuals are (1, -1) twice: (1 / 2.5 + 1 / 0.8125) / 2 more, and those of D_f follow in the same way.
    """
    model = nn.Sequential(OrderedDict(normalize=nn.Identity(), net=Toy()))
    retain = data.Split(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1), torch.tensor([0, 1]))
    forget = data.Split(torch.full((1, 1, 1, 1), 51, dtype=torch.uint8), torch.tensor([1]))
    losses = {"start": [], "later": []}

    def fit(adapted, split, optimizer, objective, draw, **_):
        learned = {key: p for key, p in adapted.named_parameters() if p.requires_grad}
        for time, found in losses.items():
            for _ in range(60):
                found.append(objective(adapted, torch.full((1, 1, 1, 1), 0.2), torch.tensor([1]), draw(torch.tensor([0]))))
            if time == "start":
                max(found).backward()
                assert all(p.grad.isfinite().all() for p in learned.values()) and len(learned) == 4
                up, down = (next(p for key, p in learned.items() if f"layer1.conv.lora_{x}" in key) for x in "BA")
                down.data.fill_(1.0)
                up.data = torch.tensor([1.0, -1.0]).view_as(up)
        return {}

    monkeypatch.setattr(run_module, "fit", fit)
    monkeypatch.setattr(models, "is_vit", lambda _: False)
    flags = {"shift": shift, "rank": 1, "alpha": 1.0, "forget_weight": 2.0, "plot": None, "lr": 0.1}
    settings = Settings(flags | {"epochs": 3 if cached else 1, "batch_size": 1, "seed": 0})  # 3 images drawn: more than D_r
    dataset = data.Dataset("toy", retain, retain, ("a", "b"), False, "toy", ((0.5,), (0.5,)))
    rfau.unlearn(
        model, retain, forget, Run("rfau", settings, FP32, dataset, Staged(tmp_path / "x.pth"), record=record_of("toy"))
    )
    for time, expected in (("start", start), ("later", later)):
        values = sorted(loss.item() for loss in losses[time])
        assert sorted({round(value, 4) for value in values}) == pytest.approx(sorted(set(expected)), abs=1e-4)
        assert 15 < sum(value < sum(expected) / 2 for value in values) < 45 or len(set(expected)) == 1  # drawn alike


def test_a_network_whose_stages_do_not_give_one_tensor_is_refused():
    """SelecSLS hands lists on from block to block, and CoaT calls what is in a stage, not the stage."""

    class Pair(nn.Module):
        def forward(self, x):
            return [x, x]

    model = nn.Sequential(OrderedDict(one=nn.Identity(), two=Pair()))
    model.uncalled = nn.ModuleList()
    model.forward = lambda x: model.two(model.one(x))
    assert torch.equal(forget_losses.outputs(model, ["one"], torch.ones(1))[0], torch.ones(1))
    for stages in (["one", "two"], ["one", "uncalled"]):
        with pytest.raises(UserError, match=r"stages as one don't give one: finetune.py"):
            forget_losses.outputs(model, stages, torch.zeros(1))


NAMED = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, *parts, **said):
        super().__init__(*parts)
        vars(self).update(said)

def parts():
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(2)]
    return nn.Conv2d(1, 8, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)

def named():
    return Net(*parts(), feature_info=[{"module": "1"}, {"module": "2"}])

def misnamed():
    return Net(*parts(), feature_info=["1", "2"])

def unnamed():
    return Net(*parts())
"""


def test_a_network_of_ones_own_may_name_its_stages_and_without_them_is_refused_with_the_way_out(tmp_path, capsys):
    (tmp_path / "net.py").write_text(NAMED, encoding="utf-8")
    common = ("--dataset", "digits", "--subset", 100, "--forget-class", 3, "--weights", tmp_path, "--quiet")
    for function in ("named", "misnamed", "unnamed"):
        model = f"{tmp_path / 'net.py'}:{function}"
        torch.manual_seed(0)
        torch.save(OwnNetwork.parse(model).create().state_dict(), tmp_path / "net.pth")
        flags = (*common, "--original", tmp_path / "net.pth", "--model", model, "--mean", 0.5, "--std", 0.5)
        if function == "named":
            state = models.load_checkpoint(call(rfau, *flags))["state_dict"]
            before = torch.load(tmp_path / "net.pth")
            moved = [key for key, value in before.items() if not torch.equal(state[f"net.{key}"], value)]
            assert moved == ["1.0.weight", "2.0.weight"]
            continue
        capsys.readouterr()
        with pytest.raises(UserError) as refused:
            call(rfau, *flags)
        ways = ("Net doesn't say which these are", "--model timm:NAME", "by feature_info (docs/rfau.md)", "loraprune.py")
        assert all(way in str(refused.value) for way in ways)


def test_unseen_takes_images_of_the_same_class():
    labels = torch.tensor([0, 1, 1, 2, 0, 2, 2])
    wanted = torch.tensor([0, 2] * 200)
    rows = rfau._same_class(labels, wanted)(torch.arange(400))
    assert torch.equal(labels[rows], wanted)
    assert set(rows.tolist()) == {0, 4, 3, 5, 6}
    with pytest.raises(UserError, match="no image of class 3"):
        rfau._same_class(labels, torch.tensor([3]))


def test_unseen_needs_the_class_in_d_r(weights, tmp_path, capsys):
    common = ("--dataset", "digits", "--model", "resnet8", "--weights", weights, "--forget-class", 3, "--shift", "unseen")
    code, line = one_line(rfau, capsys, *common, "--output", tmp_path / "x.pth")
    assert code == 2 and "no image of class 3" in line and not list(tmp_path.iterdir())


def test_cached_features_give_the_same_weights(few_digits, tmp_path, monkeypatch):
    """More than half of the images forgotten: the steps draw more images than D_r has."""
    counts, outputs = [], forget_losses.outputs
    monkeypatch.setattr(forget_losses, "outputs", lambda *arguments: counts.append(1) or outputs(*arguments))
    flags = (*FEW, "--original", few_digits / "vit_micro_original.pth", "--forget-random", 0.51, "--epochs", 1)
    a = unlearned(rfau, tmp_path, tmp_path / "a.pth", "vit_micro", *flags, "--batch-size", 32)
    monkeypatch.setattr(rfau, "CACHE_MIB", 0)
    b = unlearned(rfau, tmp_path, tmp_path / "b.pth", "vit_micro", *flags, "--batch-size", 32)
    steps, passes = a["cost"]["steps"], -(-(300 - len(a["forget"])) // forget_losses.REFERENCE)
    assert len(counts) == (1 + passes + steps) + (1 + 2 * steps)
    assert a["cost"]["moved"] > 0
    for key, value in a["state_dict"].items():
        torch.testing.assert_close(value, b["state_dict"][key], atol=1e-3, rtol=1e-3)


def test_gradient_ascent_forgets_and_the_retain_weight_keeps(weights, tmp_path):
    had, _ = accuracies(original(weights, "resnet8"))
    flags = ("--epochs", 1, "--lr", 0.001)
    alone = accuracies(unlearned(gradascent, weights, tmp_path / "a", "resnet8", *flags))
    both = accuracies(unlearned(gradascent, weights, tmp_path / "b", "resnet8", *flags, "--retain-weight", 0.8))
    assert alone[0] < had - 50 and both[0] < had - 50
    assert both[1] > alone[1] + 10


def test_random_labels_forget_and_keep_and_salun_moves_the_share_it_says(weights, tmp_path):
    plain = unlearned(randomlabel, weights, tmp_path / "a", "resnet8", "--epochs", 3)
    (gone, kept), (had, kept_before) = accuracies(plain), accuracies(original(weights, "resnet8"))
    assert gone < had - 30 and kept > kept_before - 10
    salun = unlearned(randomlabel, weights, tmp_path / "b", "resnet8", "--epochs", 1, "--saliency", 0.5)
    before, after = original(weights, "resnet8")["state_dict"], salun["state_dict"]
    parameters = [key for key in after if "running_" not in key and "num_batches" not in key]
    moved = sum((after[key] != before[key]).sum().item() for key in parameters)
    assert 0.45 < moved / salun["cost"]["trainable"] <= 0.5
    assert salun["flags"] == {"--saliency": "0.5"}


def test_salient_weights_have_the_largest_gradients_of_all_and_move_alone():
    """Of the mean loss on all of D_f, in several batches, in evaluation mode: batch-norm statistics don't move."""
    train = data.load("digits").train
    forget = train.take(slice(700))
    torch.manual_seed(0)
    model, _ = models.create_for("resnet8", data.load("digits"))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(1, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # timm begins with zeros, behind which nothing has a gradient
    before, trained = models.state(model), list(model.parameters())
    loss = nn.functional.cross_entropy(model.eval()(forget.images.float() / 255), forget.labels)
    sizes = torch.cat([g.abs().flatten() for g in torch.autograd.grad(loss, trained)])
    masks = randomlabel.salient(model.train(), trained, forget, 0.3, FP32)
    assert [mask.shape for mask in masks] == [p.shape for p in trained]
    chosen = torch.cat([mask.flatten() for mask in masks])
    assert chosen.sum() == len(sizes) - round(0.7 * len(sizes))
    assert sizes[chosen].min() > 0.99 * sizes[~chosen].max()  # but for rounding
    assert models.moved(before, models.state(model)) == 0
    optimizer = torch.optim.Adam(trained, lr=0.1)
    randomlabel.train_alone(optimizer, trained, masks)
    nn.functional.cross_entropy(model(forget.images.float() / 255), forget.labels).backward()
    optimizer.step()
    moved = torch.cat([(p.detach() != before[name]).flatten() for name, p in model.named_parameters()])
    assert torch.equal(moved, chosen)


def test_a_bad_teacher_makes_the_class_a_guess(weights, tmp_path):
    found = unlearned(badteacher, weights, tmp_path / "a", "resnet8", "--epochs", 6, "--lr", 0.003)
    gone, kept = accuracies(found)
    had, kept_before = accuracies(original(weights, "resnet8"))
    assert gone < had - 30 and kept > kept_before - 20
    assert found["cost"]["steps"] == 6 * 5  # 30 % of D_r with D_f, in batches of 128


NO_OTHER = "DELETE needs a second class: there is no other answer in data of one"


def test_data_of_one_class_are_scored_but_have_no_wrong_label(tmp_path, capsys):
    noisy_folder(tmp_path / "only", ("ant",))
    common = ("--dataset", f"folder:{tmp_path}/only", "--img-size", 8, "--model", "resnet8", "--epochs", 1, "--quiet")
    common += ("--weights", tmp_path)
    call(pretrain, *common)
    code, line = one_line(randomlabel, capsys, *common, "--forget-random", 0.5)
    assert code == 2 and "needs a second class" in line
    assert one_line(delete, capsys, *common, "--forget-random", 0.5) == (2, f"{delete.__name__}.py: {NO_OTHER}")
    path = call(gradascent, *common, "--forget-random", 0.5, "--retain-weight", 0.5)
    (row,) = [row for row in rows_of(path, "--weights", tmp_path, "--every-attack") if row["method"].startswith("grad")]
    assert row["metrics"]["UA"]["mean"] == 0 and "missing" in row["metrics"]["MIA_AUC"]
