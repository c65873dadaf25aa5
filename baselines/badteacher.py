"""Bad teacher: imitate the original on D_r and an untrained network on D_f.

Chundawat et al. 2023 ("Can Bad Teaching Induce Forgetting?"): the student starts from the original and minimises
KL(teacher || student) at temperature 1, the teacher being the original for images of D_r and a randomly initialised network
of the same kind for images of D_f; a random 30 % of D_r take part. The teachers' answers never change, so they are
computed once; the KL divergence to a fixed answer has the gradient of the cross-entropy with it.

    python -m baselines.badteacher --dataset fashion-mnist --model resnet20 --forget-class 3
"""

import copy

import torch

import data
from unlearning.core.device import clock
from unlearning.core.flags import PerModel, fraction, main
from unlearning.vision.predict import predict
from unlearning.vision.run import execute, method_parser
from unlearning.vision.train import fit

LR = PerModel(paper=1e-4, resnet20=1e-3)


def unlearn(model, retain, forget, config):
    """Minimise the divergence from the two teachers' answers over all weights, starting from the original."""
    started = clock(config.device)
    stupid = copy.deepcopy(model)
    for module in stupid.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    some = retain.take(torch.randperm(len(retain))[: round(config.retain_share * len(retain))])
    answers = [predict(*pair, config).softmax(1) for pair in ((model, some), (stupid, forget))]
    both = data.Split(data.concatenate(some.images, forget.images), torch.cat(answers))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    return fit(model, both, optimizer, config, since=started)


def parser():
    parser = method_parser(__doc__, epochs=5, lr=LR)
    parser.add_argument("--retain-share", type=fraction, default=0.3, help="share of D_r that takes part (default: 0.3)")
    return parser


def run(config):
    return execute("badteacher", unlearn, config)


if __name__ == "__main__":
    main(run, parser())
