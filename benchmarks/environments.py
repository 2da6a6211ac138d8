"""The virtual environments of the libraries: one folder each, made with pip from a file of pinned versions."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".envs"
BOX = """
import cvxpy as cp, torch
from cvxpylayers.torch import CvxpyLayer
x, a = cp.Variable(3), cp.Parameter(3)
for options in {options}:
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [x >= 0, x <= 1])
    y, = CvxpyLayer(problem, [a], [x], **options)(torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64))
    assert abs(y - torch.tensor([0.0, 0.5, 1.0])).max() < 1e-3, f"the projection on the box is {{y.tolist()}}"
"""
CHECKS = {
    "diffcp": BOX.format(options="[{}]"),
    "moreau": BOX.format(options="[{'solver': 'MOREAU'}]"),
    "qplayer": "",
    "prox": "",
    "projections": "",
    "jax": "",
}


def interpreter(name: str) -> Path | None:
    """The Python of an environment, made on the first call; None, with a line that says why, if it cannot be made."""
    if name == "own":
        return Path(sys.executable)
    requirements, folder = HERE / f"requirements-{name}.txt", FOLDER / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making the environment {name} in {folder}", flush=True)
    try:
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        torch = [line for line in requirements.read_text().splitlines() if line.startswith("torch")]
        if torch:
            subprocess.run([*install, *torch], check=True)
        subprocess.run([*install, "--requirement", requirements], check=True)
        subprocess.run([python, "-W", "ignore", "-c", CHECKS[name]], check=True)
    except subprocess.CalledProcessError as error:
        print(f"environment {name} is not available: {error}", flush=True)
        return None
    stamp.write_text(wanted)
    return python
