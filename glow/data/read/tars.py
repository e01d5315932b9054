"""Tars that somebody else wrote."""

from __future__ import annotations

import tarfile

MAX_HEADER_BYTES = 2**20  # of names and notes that belong to one member


class BoundedHeader(tarfile.TarInfo):
    """A header of a tar that is not followed by names and notes of any length, which tarfile reads whole."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        notes = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)
        if self.type in (*notes, tarfile.GNUTYPE_LONGLINK) and self.size > MAX_HEADER_BYTES:
            raise tarfile.TarError(f"a header of {self.size} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]
