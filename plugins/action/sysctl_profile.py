# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module sysctl_profile on the host; a failure is printed as a few lines."""

from __future__ import annotations

from ansible_collections.precog.fleet.plugins.plugin_utils._action import BriefAction


class ActionModule(BriefAction):
    """The module's result, of which the raw one is shown with -vvv only."""
