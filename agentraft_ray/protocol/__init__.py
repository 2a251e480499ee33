"""The protocol core: records, state, decisions. Sans-IO: no clock, no randomness, no async, no logging, no I/O."""

from agentraft_ray.protocol.announce import announcements
from agentraft_ray.protocol.machine import RunMachine, Seal
from agentraft_ray.protocol.messages import Ready
from agentraft_ray.protocol.plan import BudgetSpec, Plan, PlanSpec, Policies, StepSpec, plan_of
from agentraft_ray.protocol.records import decode_record, encode_record
from agentraft_ray.protocol.state import RunState, fold

__all__ = [
    "BudgetSpec",
    "Plan",
    "PlanSpec",
    "Policies",
    "Ready",
    "RunMachine",
    "RunState",
    "Seal",
    "StepSpec",
    "announcements",
    "decode_record",
    "encode_record",
    "fold",
    "plan_of",
]
