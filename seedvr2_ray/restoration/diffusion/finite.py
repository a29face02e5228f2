"""Whether what each stage made are numbers, asked on the device and answered before frames leave it.

NaN becomes black and infinity white once values are clamped and rounded, so nobody would ever see that a network
failed. Every stage's results are looked at where they are made, without waiting for the device. The answers
are read together when a batch of frames is about to leave, which waits for the device anyway.

Shape letters: T frames or latents.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seedvr2_ray.errors import NotFiniteError
from seedvr2_ray.frames import all_finite
from seedvr2_ray.models.parallel import ALONE, SequenceParallel

CheckedStage = Literal["encode", "transform", "decode", "colour match"]


@dataclass(frozen=True, slots=True)
class _Question:
    stage: CheckedStage
    frames: range
    answer: Tensor


class FiniteChecks:
    """What is asked about one segment's numbers until frames leave."""

    def __init__(
        self, first_frame: int, num_frames: int, *, plain_path: bool, parallel: SequenceParallel = ALONE
    ) -> None:
        """Begin a segment.

        Args:
            first_frame: its number in the file.
            num_frames: without the fill at the end, which no message names.
            plain_path: whether this is the second try.
            parallel: ranks that ask the same of their parts of each result, and get the same answers.
        """
        self._first_frame = first_frame
        self._num_frames = num_frames
        self._plain_path = plain_path
        self._parallel = parallel
        self._open: list[_Question] = []

    def ask(self, stage: CheckedStage, frames: range, made: Tensor) -> None:
        """Have the device look at what a stage made of frames, numbered from the segment's first; does not wait."""
        self._open.append(_Question(stage, frames, all_finite(made)))

    def require(self) -> None:
        """Wait for the answers to everything asked since the last call.

        Raises:
            NotFiniteError: names the stage where the first numbers went wrong, and all frames it spoiled.
        """
        questions, self._open = self._open, []
        if not questions:
            return
        answers = self._of_all_ranks(_wait([question.answer for question in questions]))
        failed = [question for question, is_finite in zip(questions, answers, strict=True) if not is_finite]
        if not failed:
            return
        # Later stages only carry on what the first one spoiled.
        stage = failed[0].stage
        spoiled = [question.frames for question in failed if question.stage == stage]
        first = self._first_frame + min(frames.start for frames in spoiled)
        last = self._first_frame + min(max(frames.stop for frames in spoiled), self._num_frames) - 1
        tried = ", and so it did without any way of computing faster" if self._plain_path else ""
        raise NotFiniteError(
            f"the stage {stage!r} made numbers of frames {first} to {max(first, last)} that are NaN or infinite and no "
            f"colours{tried}; nothing of them was kept. Choose another model for this file"
        )

    def _of_all_ranks(self, answers: list[bool]) -> list[bool]:
        if self._parallel.size == 1:
            return answers
        everywhere = self._parallel.all_gather(torch.tensor(answers), kind="checks")
        merged: list[bool] = torch.stack(everywhere).all(0).tolist()
        return merged


def _wait(answers: list[Tensor]) -> list[bool]:
    values: list[bool] = torch.stack(answers).tolist()
    return values
