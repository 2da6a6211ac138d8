"""Solvers: objects with settings that declare what they can do.

The packages that do the work are imported when they are first needed, so a solver can be named and set without being
installed.

>>> Clarabel(tol=1e-9)
Clarabel(tol=1e-09)
"""

from cvxlayers.solvers.active_set import ActiveSet
from cvxlayers.solvers.choice import Candidate, Plan, choose
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.daqp import DAQP
from cvxlayers.solvers.diffcp import DiffCP
from cvxlayers.solvers.ecos import ECOS
from cvxlayers.solvers.fallback import Fallback
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.solvers.moreau import Moreau
from cvxlayers.solvers.osqp import OSQP
from cvxlayers.solvers.piqp import PIQP
from cvxlayers.solvers.registry import names, resolve
from cvxlayers.solvers.scs import SCS
from cvxlayers.solvers.solver import Capabilities, Prepared, Solver

__all__ = [
    "DAQP",
    "ECOS",
    "OSQP",
    "PIQP",
    "SCS",
    "ActiveSet",
    "Candidate",
    "Capabilities",
    "Clarabel",
    "DiffCP",
    "Fallback",
    "Moreau",
    "Native",
    "Plan",
    "Prepared",
    "Solver",
    "choose",
    "names",
    "resolve",
]
