"""Optimizers that need whole parameters: matrices, not single elements."""

from collections.abc import Sequence

from ringlet.nn.flat import Slot
from ringlet.nn.optim.optimizer import FlatOptimizer, Update


class WholeParameters(FlatOptimizer):
    """Updates the parameters in `whole_slots()` one at a time, the others in blocks.

    Raises ValueError naming the parameter if only a part of one is in the flat arrays, as with
    ZeRO: the method is about a matrix's rows and columns.
    """

    def __post_init__(self) -> None:
        self._whole = list(self.whole_slots())
        for slot in self._whole:
            if slot.stop - slot.start != slot.parameter.numel():
                raise ValueError(
                    f"{type(self).__name__} needs whole matrices, and only {slot.stop - slot.start}"
                    f" of the {slot.parameter.numel()} elements of {slot.name} are here: use ZeRO "
                    f"stage 0, or an element-wise optimizer such as AdamW"
                )
        super().__post_init__()

    def whole_slots(self) -> Sequence[Slot]:
        """The parameters that are updated whole: here all."""
        return self.flat.slots

    def in_blocks(self) -> Sequence[Slot]:
        whole = {slot.start for slot in self._whole}
        return [slot for slot in self.flat.slots if slot.start not in whole]

    def update_range(self, begin: int, end: int) -> None:
        """See FlatOptimizer; a parameter must be entirely inside the range or outside."""
        super().update_range(begin, end)
        for slot in self._whole:
            if not begin <= slot.start < end:
                continue
            if slot.stop > end:
                raise ValueError(f"{slot.name} is cut at element {end}")
            update, shape = Update(), slot.parameter.shape
            update.data, update.grad = (
                array.reshape(shape) for array in self.flat.views(slot.start, slot.stop)
            )
            update.state = [array[slot.start : slot.stop] for array in self.state.values()]
            scale, update.decay = self.rates(slot)
            update.rate = self.learning_rate * scale
            self.update_whole(update)

    def update_whole(self, whole: Update) -> None:
        """Update a parameter in place; `data` and `grad` have its shape, the state is flat, and
        there is no scratch memory."""
        raise NotImplementedError
