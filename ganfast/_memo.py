"""What a call decided, remembered for the next one that looks like it."""


class Memo(dict):
    """A dict that starts anew when full: images of ever new sizes must not fill the memory."""

    MOST = 4096

    def __setitem__(self, key, value) -> None:
        if len(self) >= self.MOST:
            self.clear()
        super().__setitem__(key, value)
