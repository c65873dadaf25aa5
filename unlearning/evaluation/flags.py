"""TODO unlearning.evaluation.flags."""

from unlearning.core.flags import add_cache_flag, add_device_flags
from unlearning.evaluation import network


def add_scoring_flags(parser):
    """The flags that evaluate and reproduce share."""
    parser.add_argument("--mia", choices=tuple(network.ATTACKS), default="svc", help="membership attack (default: svc)")
    parser.add_argument(
        "--every-attack", action="store_true", help="also every attack feature with both attackers (minutes a file)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_device_flags(parser)
    add_cache_flag(parser)
