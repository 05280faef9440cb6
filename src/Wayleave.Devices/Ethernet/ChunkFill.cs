namespace Wayleave.Devices.Ethernet;

/// <summary>
/// Where the next payload of a queue goes in a pool: one after the other, without gaps, through one chunk after the
/// other (<c>page_pool_alloc_frag</c>). Holds one reference of the chunk it is in. Port token held by the caller.
/// </summary>
internal sealed class ChunkFill(ChunkPool pool)
{
    private const int None = -1;

    private int _chunk = None;
    private int _used;

    public ChunkPool Pool => pool;

    /// <summary>Bytes that surely fit: in the chunk that is being filled, and in all that are free.</summary>
    public long RoomBytes => Left + ((long)pool.FreeChunks * pool.ChunkBytes);

    private int Left => _chunk == None ? 0 : pool.ChunkBytes - _used;

    /// <summary>
    /// Room for a payload, in pieces that have a reference each, which is the caller's; all of it or nothing.
    /// </summary>
    /// <param name="lengthBytes">Positive.</param>
    /// <param name="pieces">Long enough for a payload of that length.</param>
    /// <param name="count">Pieces that were filled in.</param>
    public bool TryTake(int lengthBytes, Span<PayloadFragment> pieces, out int count)
    {
        count = 0;
        if (RoomBytes < lengthBytes)
        {
            pool.AllocationFailures++;
            return false;
        }

        while (lengthBytes > 0)
        {
            if (Left == 0)
            {
                Next();
            }

            int length = Math.Min(lengthBytes, Left);
            pool.Retain(_chunk);
            pieces[count++] = new PayloadFragment(pool, _chunk, _used, length);
            Advance(length);
            lengthBytes -= length;
        }

        return true;
    }

    /// <summary>
    /// The pieces that <see cref="TryTake"/> would give out now, without references: good until the next of this fill
    /// or of its pool.
    /// </summary>
    /// <param name="lengthBytes">At most so many bytes.</param>
    /// <param name="pieces">At most so many pieces.</param>
    /// <param name="count">Pieces that were filled in.</param>
    /// <returns>The bytes of all of them.</returns>
    public int Peek(int lengthBytes, Span<PayloadFragment> pieces, out int count)
    {
        int free = 0, total = 0;
        (int chunk, int used) = (_chunk, _used);
        for (count = 0; total < lengthBytes && count < pieces.Length; count++)
        {
            if (chunk == None)
            {
                if (free == pool.FreeChunks)
                {
                    break;
                }

                (chunk, used) = (pool.PeekFree(free++), 0);
            }

            int length = Math.Min(lengthBytes - total, pool.ChunkBytes - used);
            pieces[count] = new PayloadFragment(pool, chunk, used, length);
            total += length;
            chunk = None;
        }

        return total;
    }

    /// <summary>
    /// As above, in one piece: what is left of the present chunk is given up for a new one if need be.
    /// </summary>
    public bool TryTakeWhole(int lengthBytes, out PayloadFragment piece)
    {
        piece = default;
        if (lengthBytes > pool.ChunkBytes || (Left < lengthBytes && pool.FreeChunks == 0))
        {
            pool.AllocationFailures++;
            return false;
        }

        if (Left < lengthBytes)
        {
            Next();
        }

        pool.Retain(_chunk);
        piece = new PayloadFragment(pool, _chunk, _used, lengthBytes);
        Advance(lengthBytes);
        return true;
    }

    /// <summary>Lets go of the chunk that is being filled.</summary>
    public void Flush()
    {
        if (_chunk != None)
        {
            int chunk = _chunk;
            (_chunk, _used) = (None, 0);
            pool.Release(chunk);
        }
    }

    // A chunk that is full belongs to those who hold its pieces, and comes back with the last of them.
    private void Advance(int lengthBytes)
    {
        _used += lengthBytes;
        if (_used == pool.ChunkBytes)
        {
            Flush();
        }
    }

    // The room was looked at before.
    private void Next()
    {
        Flush();
        if (!pool.TryAllocate(out _chunk))
        {
            throw new InvalidOperationException("the pool has fewer chunks than it said");
        }

        _used = 0;
    }
}
