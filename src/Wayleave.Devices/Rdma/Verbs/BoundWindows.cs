namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// How many windows are bound to a region. They come and go under the port token; that there may be no more is said
/// under the host lock, which excludes nobody there, so the count is one word that both change atomically.
/// </summary>
internal struct BoundWindows
{
    private const int Refused = int.MinValue;

    private int _count;

    /// <summary>One more; false when no more are let in.</summary>
    public bool TryAdd()
    {
        int count = Volatile.Read(ref _count);
        while (count != Refused)
        {
            int seen = Interlocked.CompareExchange(ref _count, count + 1, count);
            if (seen == count)
            {
                return true;
            }

            count = seen;
        }

        return false;
    }

    /// <summary>One fewer, of those that <see cref="TryAdd"/> let in.</summary>
    public void Remove() => Interlocked.Decrement(ref _count);

    /// <summary>Lets no more in, for good; false, and nothing changed, while there is one. Idempotent.</summary>
    public bool TryRefuse() => Interlocked.CompareExchange(ref _count, Refused, 0) is 0 or Refused;
}
