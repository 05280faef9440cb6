namespace Wayleave.Host.Control;

/// <summary>How a client reaches a host and proves who it is.</summary>
public sealed record ControlClientOptions
{
    /// <summary>
    /// A file with the token, as the user named it. Without it: <c>WAYLEAVE_TOKEN</c>, then the file in
    /// <c>WAYLEAVE_TOKEN_FILE</c>, then what a host of this user on this machine registered for the address.
    /// </summary>
    public string? TokenFile { get; init; }

    /// <summary>A Unix socket to use instead of TCP; needs no token.</summary>
    public string? SocketPath { get; init; }

    /// <summary>
    /// The longest wait for a connection, for an answer that takes no work, and for the next line of a lease's stream.
    /// </summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(8);

    /// <summary>
    /// How often a host that works on a longer request is asked whether it is still there; one that gives no answer to
    /// that within <see cref="Timeout"/> has fallen silent.
    /// </summary>
    public TimeSpan ProbeInterval { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>
    /// The longest wait for an answer that takes the host work in proportion to an object, such as a move, a checksum,
    /// or a lease of memory that is still being cleared, as long as it is there.
    /// </summary>
    public TimeSpan WorkTimeout { get; init; } = TimeSpan.FromMinutes(5);

    /// <summary>Looks a variable up; replaced by tests.</summary>
    public Func<string, string?> EnvironmentVariables { get; init; } = Environment.GetEnvironmentVariable;
}
