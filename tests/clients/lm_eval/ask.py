# SPDX-License-Identifier: Apache-2.0
"""local-completions on documents of its own: log-likelihoods and a greedy answer, with a local
tokenizer and with the server's (`tokenizer_backend=remote`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

# The last word is to be guessed, as in LAMBADA.
DOCUMENTS = (
    ("The children went to the beach and built a castle out of", " sand"),
    ("She opened her umbrella because it had started to", " rain"),
    ("He poured the hot coffee into his favourite", " cup"),
    ("At night we looked up and counted the", " stars"),
)
TASKS = {
    "last_word": "output_type: loglikelihood\nmetric_list:\n"
                 "  - metric: perplexity\n  - metric: acc",
    "written_word": 'output_type: generate_until\ngeneration_kwargs:\n  until: ["\\n"]\n'
                    "  max_gen_toks: 8\nmetric_list:\n  - metric: exact_match",
}
Path("documents.jsonl").write_text("".join(
    json.dumps({"text": text, "word": word}) + "\n" for text, word in DOCUMENTS))
for name, rest in TASKS.items():
    Path(f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {Path('documents.jsonl').resolve()}\ntest_split: test\n"
        'doc_to_text: "{{text}}"\ndoc_to_target: "{{word}}"\ntarget_delimiter: ""\n'
        f"{rest}\n")


def evaluate(backend, tokenizer):
    """(perplexity, accuracy) of the last words."""
    arguments = (f"model={os.environ['SERVER_MODEL']},base_url={os.environ['SERVER_URL']}"
                 f"/v1/completions,tokenizer_backend={backend},num_concurrent=2,max_retries=1"
                 + (f",tokenizer={tokenizer}" if tokenizer else ""))
    output = Path(f"results_{backend}")
    subprocess.run([sys.executable, "-m", "lm_eval", "run", "--model", "local-completions",
                    "--model_args", arguments, "--tasks", ",".join(TASKS), "--include_path", ".",
                    "--output_path", str(output)], check=True)
    results = json.loads(next(output.rglob("results*.json")).read_text())["results"]["last_word"]
    return results["perplexity,none"], results["acc,none"]


local = evaluate("huggingface", os.environ["TOKENIZER"])
assert local[1] >= 0.5, local
remote = evaluate("remote", None)
assert abs(local[0] - remote[0]) < 0.01 * local[0], (local, remote)
print(f"perplexity {local[0]:.2f}, accuracy {local[1]:.2f}, with either tokenizer")
