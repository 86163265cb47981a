"""The runs and the judge shown on the Scoring page, and the data shared by its parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import streamlit as st

from core.judging.answers import JudgedAnswers
from core.lab import Lab
from pages.ui.page_state import PageState

REQUESTED = "scoring_requested"
"""Session key: whether a button outside the form has requested scoring."""


@dataclass(frozen=True)
class Selection:
    """The data that the verdict and the tabs show.

    Args:
        verdicts: verdicts from all judges, from `Scoring.verdicts`.
        judge: ID of the selected judge, or None if there are no verdicts.
        colors: the color of each run and base model.
        can_score: whether the settings in the form are valid and there is anything to score.
    """

    lab: Lab
    state: PageState
    judged: JudgedAnswers
    verdicts: pd.DataFrame
    judge: str | None
    colors: Mapping[str, str]
    can_score: bool

    @cached_property
    def judge_verdicts(self) -> pd.DataFrame:
        """The selected judge's verdicts."""
        return self.verdicts[self.verdicts["id"] == self.judge]

    @cached_property
    def leaderboard(self) -> list[dict[str, Any]]:
        """One row per run with its mean score from the selected judge. Empty if there are no verdicts."""
        verdicts = self.judge_verdicts
        if verdicts.empty:
            return []
        return self.lab.scoring.leaderboard(self.judged, verdicts, str(verdicts["model"].iloc[0]))

    @property
    def scored_runs(self) -> list[str]:
        """The runs that have a mean score."""
        scored = {row["run"] for row in self.leaderboard if row["mean"] is not None}
        return [run for run in self.judged.names if run in scored]

    def show_score_button(self, key: str) -> None:
        """Draw a button that starts scoring with the settings in the form."""
        st.button(
            "Score these runs",
            key=key,
            icon=":material/grading:",
            disabled=not self.can_score,
            help=None if self.can_score else "Fix the settings under *Score answers* first.",
            on_click=st.session_state.update,
            args=({REQUESTED: True},),
        )
