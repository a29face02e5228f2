"""Reading the headers of coded pictures bit by bit."""

_LONGEST_CODE = 32


class BitReader:
    """Bits from the highest of the first byte on; behind the end come zeros, as hostile headers may be short."""

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    @property
    def is_overrun(self) -> bool:
        """Whether more was asked for than there is."""
        return self._left < 0

    def take(self, count: int) -> int:
        """Return the next bits as a number."""
        self._left -= count
        return self._bits >> self._left & ((1 << count) - 1) if self._left >= 0 else 0

    def skip(self, count: int) -> None:
        """Pass over bits."""
        self._left -= count

    def unsigned(self) -> int:
        """Return a number in Exp-Golomb code (H.264, 9.1)."""
        num_zeros = 0
        while num_zeros < _LONGEST_CODE:
            if self._left <= 0:
                self._left = -1  # The bit that ends the zeros is missing.
                break
            if self.take(1):
                break
            num_zeros += 1
        return (1 << num_zeros) - 1 + self.take(num_zeros)

    def signed(self) -> int:
        """Return a number in signed Exp-Golomb code."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)
