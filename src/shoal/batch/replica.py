"""Keeps a copy of a data file on another node up to date."""

from __future__ import annotations

import asyncio
from pathlib import Path

from shoal.batch import data, wire
from shoal.batch.channel import Channel, ConflictError
from shoal.batch.cluster import Peer


class Replica:
    """The copy of one file on one node.

    Args:
        channel: to the node.
        peer: the node.
        file_id: the file.
        path: of it on this node.
        batch: id, generation and owner of the batch whose results it has; None for an upload.
    """

    def __init__(
        self,
        channel: Channel,
        peer: Peer,
        file_id: str,
        path: Path,
        batch: tuple[str, int, str] | None = None,
    ) -> None:
        self.peer = peer
        self._channel = channel
        self._file_id = file_id
        self._path = path
        self._batch = batch
        self._offset: int | None = None  # bytes that are there; None when not known

    async def push(self, upto: int) -> None:
        """Send what is missing there up to `upto`; return when it is on the other node's disk.

        Raises:
            PeerError: the node does not take it.
            ConflictError: it follows another owner.
        """
        if self._offset is None:
            self._offset = min(upto, await self._channel.length(self.peer, self._file_id))
        while self._offset < upto:
            most = min(wire.PIECE, upto - self._offset)
            piece = await asyncio.to_thread(data.read, self._path, self._offset, most)
            try:
                self._offset = await self._channel.put_data(
                    self.peer, self._file_id, self._offset, piece, self._batch
                )
            except ConflictError as error:
                if error.conflict.record is not None or error.conflict.length >= self._offset:
                    raise
                self._offset = error.conflict.length
