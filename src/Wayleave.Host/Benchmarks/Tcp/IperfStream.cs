using Wayleave.Host.Ethernet;

namespace Wayleave.Host.Benchmarks.Tcp;

/// <summary>
/// One stream of a client of iperf3. Its end is no end of the connection: the client says over its control connection
/// how much it sent, and closes later.
/// </summary>
internal sealed class IperfStream(int id, DevmemConnection connection) : IDisposable
{
    private readonly CancellationTokenSource _complete = new();
    private long _expected = long.MaxValue;
    private long _bytes;

    public int Id => id;

    public DevmemConnection Connection => connection;

    /// <summary>Counted so far.</summary>
    public long Bytes => Volatile.Read(ref _bytes);

    /// <summary>Canceled once all has come: nothing more will, and a read may end.</summary>
    public CancellationToken Complete => _complete.Token;

    /// <summary>The receiver has so many bytes more. By one thread.</summary>
    public void Count(long bytes)
    {
        // A full barrier here and in Expect: whoever wrote last sees the other's number.
        long total = Interlocked.Add(ref _bytes, bytes);
        if (total >= Volatile.Read(ref _expected))
        {
            _complete.Cancel();
        }
    }

    /// <summary>The client says how many it sent.</summary>
    public void Expect(long bytes)
    {
        Interlocked.Exchange(ref _expected, bytes);
        if (Bytes >= bytes)
        {
            _complete.Cancel();
        }
    }

    public void Dispose() => _complete.Dispose();
}
