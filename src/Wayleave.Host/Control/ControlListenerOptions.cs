using System.Net.Sockets;
using Wayleave.Linux;

namespace Wayleave.Host.Control;

/// <summary>Limits of the control server, with defaults; tests set them to extremes.</summary>
public sealed record ControlListenerOptions
{
    /// <summary>A request's body; the largest that the API knows is far smaller.</summary>
    public long RequestBodyBytesMax { get; init; } = 64 * 1024;

    /// <summary>All headers of a request together.</summary>
    public int RequestHeaderBytesMax { get; init; } = 16 * 1024;

    /// <summary>Connections at a time; more are closed at once.</summary>
    public long ConnectionsMax { get; init; } = 256;

    /// <summary>A client must have sent its headers by then.</summary>
    public TimeSpan HeadersTimeout { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>An idle connection is closed after this.</summary>
    public TimeSpan IdleTimeout { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>A peer's machine that stays silent this long has left.</summary>
    public TimeSpan PeerSilenceMax { get; init; } = TimeSpan.FromSeconds(8);

    /// <summary>Between two lines of a lease's stream while nothing happens.</summary>
    public TimeSpan HeartbeatInterval { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>Between two lines of a transfer's stream.</summary>
    public TimeSpan ProgressInterval { get; init; } = TimeSpan.FromMilliseconds(100);

    /// <summary>
    /// An object that nobody leases for writing within this time of its creation is given up: its writer died before.
    /// </summary>
    public TimeSpan UnleasedObjectMax { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>Time for the intervals and the limit above.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;

    /// <summary>Where the runtime directory is looked up.</summary>
    public Func<string, string?> EnvironmentVariables { get; init; } = Environment.GetEnvironmentVariable;

    /// <summary>Where failures that no client caused are written; null for nowhere.</summary>
    public TextWriter? Log { get; init; }

    /// <summary>Who is at the other end of a Unix socket; replaced only by tests, which have no second user.</summary>
    internal Func<Socket, uint> PeerUserId { get; init; } = UnixPeer.GetUid;

    /// <summary>Broken twins for the tests of the tests: each switches one defence off.</summary>
    internal ControlDefences Defences { get; init; } = ControlDefences.All;
}

/// <summary>The checks at the door.</summary>
[Flags]
internal enum ControlDefences
{
    None = 0,
    Token = 1,
    HostHeader = 2,
    OriginHeader = 4,
    PeerUser = 8,
    All = Token | HostHeader | OriginHeader | PeerUser,
}
