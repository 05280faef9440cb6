namespace Wayleave.Host.Control;

// What crosses the control connection, and what --json prints: names in snake_case with the unit at the end, numbers
// raw, absent members left out, and a schema so that a reader knows what it holds. ControlEndpoints lists the requests.
//
// A property with a default has `set` and not `init`: the generated reader sets every init-only property, to zero if it
// is absent.

/// <summary><c>GET /v1/host</c>.</summary>
public sealed record HostDocument
{
    public string Schema { get; set; } = "wayleave.host.v1";

    public required string Name { get; init; }

    public required string Version { get; init; }

    public required int ProcessId { get; init; }

    public required long UptimeUs { get; init; }

    /// <summary>ADDRESS:PORT, with brackets around an IPv6 address.</summary>
    public required string Control { get; init; }

    /// <summary>The Unix socket, if there is one.</summary>
    public string? Socket { get; init; }

    /// <summary>
    /// What the checker found since the host runs, each a contract that somebody broke, in words; absent when there is
    /// nothing, as it should be.
    /// </summary>
    public IReadOnlyList<string>? Violations { get; init; }
}

/// <summary>A running host as its user's other programs find it: <c>NAME.json</c> in the runtime directory.</summary>
public sealed record RegistrationDocument
{
    public string Schema { get; set; } = "wayleave.registration.v1";

    public required string Name { get; init; }

    public required int ProcessId { get; init; }

    /// <summary>An address literal without brackets.</summary>
    public required string Address { get; init; }

    public required int Port { get; init; }

    public string? Socket { get; init; }

    /// <summary>Where the token is; absent if the hosts share one.</summary>
    public string? TokenFile { get; init; }
}

/// <summary>RFC 9457, <c>application/problem+json</c>: why a request was refused.</summary>
public sealed record ProblemDocument
{
    public required string Title { get; init; }

    public required int Status { get; init; }

    /// <summary>The whole message, in one line.</summary>
    public required string Detail { get; init; }

    /// <summary>The symbol: <c>ENOSPC</c>. Absent where nobody may know more.</summary>
    public string? Errno { get; init; }

    /// <summary>What was tried, with its object.</summary>
    public string? Operation { get; init; }

    /// <summary>What went wrong, without the operation.</summary>
    public string? Reason { get; init; }

    /// <summary>What the user can do.</summary>
    public string? Remedy { get; init; }
}
