namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>Numbers that only this endpoint can know, one key for each use.</summary>
internal sealed class ConnectionSecrets
{
    private readonly SipHash _sequence;
    private readonly SipHash _timestamp;
    private readonly SipHash _port;

    /// <param name="key">16 bytes of a cryptographic source; copied.</param>
    public ConnectionSecrets(ReadOnlySpan<byte> key)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(key.Length, SipHash.KeySize);
        SipHash root = new(key);
        (_sequence, _timestamp, _port) = (Derive(root, 1), Derive(root, 2), Derive(root, 3));
        (CookieMinute, CookieIndex) = (Derive(root, 4), Derive(root, 5));
    }

    /// <summary>The two hashes of a SYN cookie.</summary>
    public SipHash CookieMinute { get; }

    public SipHash CookieIndex { get; }

    /// <summary>
    /// RFC 6528: a clock of 4 microseconds plus a hash of the connection, so that a new connection between the same
    /// ends begins beyond the old one and nobody else learns where.
    /// </summary>
    public uint InitialSequence(in TcpFlow flow, TimeSpan now) =>
        (uint)_sequence.Of(flow, 0, 0) + (uint)(now.Ticks / (4 * TimeSpan.TicksPerMicrosecond));

    /// <summary>RFC 7323 5.4: where the timestamps of a connection begin.</summary>
    public uint TimestampOffset(in TcpFlow flow) => (uint)_timestamp.Of(flow, 0, 0);

    /// <summary>RFC 6056 3.3.3: where the search for a port begins, by peer.</summary>
    public uint PortOffset(in TcpFlow flow) => (uint)_port.Of(flow with { LocalPort = 0 }, 0, 0);

    private static SipHash Derive(SipHash root, uint use)
    {
        Span<byte> key = stackalloc byte[SipHash.KeySize];
        BitConverter.TryWriteBytes(key, root.Of(default, use, 0));
        BitConverter.TryWriteBytes(key[8..], root.Of(default, use, 1));
        return new SipHash(key);
    }
}
