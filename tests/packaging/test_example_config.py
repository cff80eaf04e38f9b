# SPDX-License-Identifier: Apache-2.0
"""config/kvasird.example.json is what the option table makes of itself, and loads."""

import json
import subprocess


def test_is_up_to_date(kvasird, root, clean_environment):
    made = subprocess.run([kvasird, "config", "--example"], check=True, capture_output=True,
                          text=True, env=clean_environment).stdout
    assert (root / "config/kvasird.example.json").read_text() == made, \
        "run build/kvasird config --example > config/kvasird.example.json"


def test_loads_and_sets_every_option_to_its_default(kvasird, root, clean_environment):
    path = root / "config/kvasird.example.json"

    def values(*args):
        out = subprocess.run([kvasird, "config", "--json", *args], check=True, capture_output=True,
                             text=True, env=clean_environment).stdout
        return json.loads(out)

    plain, example = values(), values("--config", path)
    assert {k: v["value"] for k, v in plain.items() if k != "config"} == \
        {k: v["value"] for k, v in example.items() if k != "config"}
    for name, option in example.items():
        assert name == "config" or option["from"].startswith(f"{path}:"), name
