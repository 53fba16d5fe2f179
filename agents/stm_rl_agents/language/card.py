"""The model card of a finetuned language model, as Hugging Face shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stm_rl.files import reading, write_text
from stm_rl_agents.language.agent import MODEL

CARD = "README.md"
LOADING = """```python
from stm_rl_agents.language.agent import LanguageAgent

agent = LanguageAgent.load("{folder}")  # plays in any environment of stm-rl
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}/model")
tokenizer = AutoTokenizer.from_pretrained("{folder}/model")
```"""


def write_card(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``model/README.md``: what was trained, on what, with which settings, how good it is, and how to load it.

    Args:
        folder: The run folder; its ``eval.json`` is read if there is one.
        config: Contents of its ``config.yaml``.
    """
    settings, request = config["finetune"], config["request"]
    base = request["init"] or settings["model"]
    head = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["stm-rl", settings["method"]]}
    if "/" in settings["model"] and not Path(settings["model"]).exists():
        head["base_model"] = settings["model"]
    what = request["transcripts"] or [request["env"]]
    facts = {
        "Command": f"`{config['command']}`",
        "Method": settings["method"] + (f", {settings['peft']}" if settings["peft"] != "none" else ""),
        "Started from": f"`{base}`",
        "Learned from": f"{', '.join(map(str, what))} ({settings['transcripts']} transcripts at most)",
        "Coherence scored by": f"`{request['lm']}`",
        "Seed": settings["seed"],
        "Versions": ", ".join(f"{name} {number}" for name, number in config["versions"].items()),
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {folder.name}: a language model that keeps its own memory",
        "It is shown slots of a memory and the last turns, and writes, forgets and reads by tool calls. Made with "
        "stm-rl.",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        f"## Settings\n\n```yaml\n{yaml.safe_dump(dict(settings), sort_keys=False)}```",
        f"## Evaluation\n\n{_evaluation(folder)}",
        f"## Loading\n\n{LOADING.format(folder=folder.name)}",
    ]
    write_text(folder / MODEL / CARD, "\n\n".join(parts) + "\n")


def _evaluation(folder: Path) -> str:
    path = folder / "eval.json"
    if not path.exists():
        return "Not evaluated."
    with reading(path, "evaluate again with `stm-rl eval`"):
        report = json.loads(path.read_text(encoding="utf-8"))
        rows = [_row(name, entry) for name, entry in report["agents"].items()]
    title = f"{report['env']}, {report['episodes']} held-out episodes; returns in nats, with 95% intervals."
    lines = ["| agent | return | coherence gain | malformed decisions |", "|---|---|---|---|"]
    return "\n".join([title, "", *lines, *(row for _, row in sorted(rows, reverse=True))])


def _row(name: str, entry: Mapping[str, Any]) -> tuple[float, str]:
    mean, (low, high) = entry["return"]["mean"], entry["return"]["ci95"]
    malformed = f"{entry['malformed']:.2%}" if "malformed" in entry else "-"
    gain = entry["coherence_gain"]["mean"]
    return mean, f"| {name} | {mean:.2f} [{low:.2f}, {high:.2f}] | {gain:.2f} | {malformed} |"
