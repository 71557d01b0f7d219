"""One node of a session: what is sent of it before anything runs, what it is started with, and how it went."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from rmbus.client import HostClient
from rmbus.errors import PackagingError, PipelineError
from rmbus.needs import on_the_wire
from rmbus.node import declared_requirements, options_of
from rmbus.plan import LOCAL, PlannedNode
from rmbus.protocol import messages
from rmbus.protocol.limits import MAX_BLOB_BYTES
from rmbus.report import NodeReport
from rmbus.shipping import package, pickling
from rmbus.shipping.package import Package
from rmbus.shipping.requirements import provide
from rmbus.transport.security import Connection


@attrs.define(eq=False)
class Run:
    """What is known of a node while it runs.

    Attributes:
        state: pickled. package: its code, where that travels; code_bytes: what was sent of it.
        started: where it runs. status: how it stands, by its host's word. tail: what it printed last.
    """

    plan: PlannedNode
    state: bytes = b""
    package: Package | None = None
    code_bytes: int = 0
    started: messages.Started | None = None
    status: str = "starting"
    tail: deque[str] = attrs.field(factory=lambda: deque(maxlen=20))

    @property
    def is_locked(self) -> bool:
        """Whether its host may have to make an environment first."""
        return self.package is not None and bool(self.package.manifest.lock)

    def start(self, session: str, *, by_hand: bool, revives: bool) -> messages.Start:
        """Return what its host is told to start it with; it publishes nothing.

        Args:
            session: the session's id. by_hand: whether it runs in the script itself. revives: see `messages.Start`.
        """
        plan, made = self.plan, self.package
        return messages.Start(
            session=session,
            node=plan.number,
            name=plan.name,
            entry=f"{type(plan.node).__module__}:{type(plan.node).__qualname__}",
            address=made.address if made else "",
            implementation=sys.implementation.name,
            python=sys.version_info[:2],
            sys_path=sys.path if made is None else [],
            folder=os.getcwd() if made is None else "",
            inputs=list(plan.inputs),
            outputs=list(plan.outputs),
            by_hand=by_hand,
            revives=revives,
            lock=made.manifest.lock if made else "",
            env=options_of(plan.node).env or "",
            needs=on_the_wire(None if by_hand else options_of(plan.node).needs),
        )

    def report(self, client: HostClient | None, account: Mapping[str, Any]) -> NodeReport:
        """Return how it went.

        Args:
            client: to its host. account: what that tells of it, empty where it tells nothing.
        """
        started, made = self.started, self.package
        return NodeReport(
            name=self.plan.name,
            host=self.plan.place if client is None else client.name,
            pid=int(account.get("pid", 0)) or (started.pid if started else 0),
            level=started.level if started else "",
            warm=started.warm if started else False,
            reason=started.reason if started else "",
            state=self.status,
            frames_in=int(account.get("frames_in", 0)),
            frames_out=int(account.get("frames_out", 0)),
            package=made.address if made else "",
            code_bytes=self.code_bytes,
            copied_bytes=int(account.get("copied_bytes", 0)),
            in_force=account.get("in_force", {}),
        )


def prepare(plan: PlannedNode, reach: Callable[[str], Connection]) -> Run:
    """Pickle a node's state, and package its code where it travels: what is wrong shows before anything runs.

    Args:
        reach: gives the connection to a host, where it has to be known what is installed there.

    Raises:
        PackagingError: it cannot be shipped. PipelineError: its options contradict each other.
    """
    state = pickling.dump(plan.node)
    if len(state.data) > MAX_BLOB_BYTES:
        blame = "; ".join(str(each) for each in state.heavy)
        raise PackagingError(
            f"the state of {plan.name} has {len(state.data):,} bytes, and {MAX_BLOB_BYTES:,} can be sent: {blame}"
        )
    for heavy in state.heavy:
        sys.stderr.write(f"rmbus: {plan.name}: {heavy}\n")
    env, declared = options_of(plan.node).env, declared_requirements(plan.node)
    if env and declared:
        raise PipelineError(f"{plan.name} names the environment {env!r} and requirements: it can have but one")
    if plan.place == LOCAL and not declared:
        if env:
            raise PipelineError(f"{plan.name} names the environment {env!r}, which a host has prepared: give it on=")
        return Run(plan, state.data)
    made = package.build(plan.node, files=options_of(plan.node).files or (), known=state.trace)
    for warning in made.warnings:
        sys.stderr.write(f"rmbus: {plan.name}: {warning}\n")
    if env:
        return Run(plan, state.data, made)
    elsewhere = plan.place != LOCAL and not reach(plan.place).shares_environment
    return Run(plan, state.data, provide(made, declared, elsewhere=elsewhere))
