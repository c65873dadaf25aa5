"""README.md of an adapter's folder: what it is, what has been asked of it, and the lines that use it."""

from pathlib import Path
from typing import Any

HEAD = """---
library_name: peft
base_model: {base}
tags: [machine-unlearning, lora]
---

# {name}

A LoRA adapter of `{base}`, trained on {count:,} rows.{asked}

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{base}")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{name}")
```

`record.json` says what it was trained on, by names and digests of rows, and what was asked of it, by which commands.
"""


def adapter(record: dict[str, Any], name: str) -> str:
    """The card of an adapter in a folder called `name`: it names no row and quotes none."""
    verbs = {"remove": "removed", "modify": "given another query", "correct": "given another response"}
    asked = "".join(
        f"\n\n{len(entry['edits']):,} of them were {verbs[entry['action']]} by {entry['method']}, "
        f"in {entry['cost']['seconds']:.1f} seconds."
        for entry in record["ledger"]
    )
    base = record["base"] if not Path(record["base"]).is_absolute() else Path(record["base"]).name
    return HEAD.format(base=base, name=name, count=len(record["rows"]), asked=asked)
