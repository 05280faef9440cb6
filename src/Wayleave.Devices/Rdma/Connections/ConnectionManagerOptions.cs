using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>How a connection manager behaves. Copied at construction.</summary>
public sealed record ConnectionManagerOptions
{
    /// <summary>How long the peer may take to answer: 4.096 us times two to this power. 20 is 4.3 s.</summary>
    public int ResponseTimeoutCode { get; init; } = 20;

    /// <summary>How often a REQ, REP or DREQ is sent again; 0 to 15.</summary>
    public int RetriesMax { get; init; } = 15;

    /// <summary>How much longer an MRA asks the peer to wait, as code: 24 is 69 s.</summary>
    public int ServiceTimeoutCode { get; init; } = 24;

    /// <summary>Requests that wait for the application, over all listeners. More are dropped silently.</summary>
    public int PendingMax { get; init; } = 256;

    /// <summary>Connections in time-wait; when there are more the oldest is over early.</summary>
    public int TimeWaitMax { get; init; } = 1024;

    /// <summary>
    /// The longest time-wait, as code: 21 is 8.6 s. It is twice the acknowledge timeout, which the peer chooses, and
    /// which may be hours; Linux waits them. rdma_cm over Ethernet asks for 0.5 or 2.1 s, so twice that is never cut.
    /// </summary>
    public int TimeWaitCodeMax { get; init; } = 21;

    /// <summary>
    /// A request from a queue pair that has a connection here says that its host has forgotten that one. Who sent it is
    /// asked, and the connection ends when the answer is yes. False ends it at once, as Linux: anybody who can send in
    /// the peer's name ends it.
    /// </summary>
    public bool AsksBeforeEnding { get; init; } = true;

    /// <summary>
    /// Answers to one source that belong to no connection (REJ to a closed port, DREP to an unknown name) in a burst
    /// and per second. More are dropped: nobody is flooded in another's name.
    /// </summary>
    public int StrangerAnswersPerSecond { get; init; } = 10;

    /// <summary>Acknowledge timeout proposed to peers, as code: 17 is 0.54 s.</summary>
    public int AckTimeoutCode { get; init; } = 17;

    /// <summary>
    /// How long a request for a port waits whose listener has gone: the next one gets it. An application that listens,
    /// takes one request, and listens again would otherwise refuse whom it expects. Zero refuses at once, as Linux.
    /// </summary>
    public TimeSpan ListenerGrace { get; init; }

    /// <summary>The UDP port at which peers listen.</summary>
    public ushort PeerUdpPort { get; init; } = AddressVector.RoceUdpPort;

    /// <summary>How the ICRC of a peer over IPv4 can be checked; over IPv6 all of it is.</summary>
    public IcrcMode PeerIcrc { get; init; } = IcrcMode.SolveIdentification;

    /// <summary>Where peers differ from us.</summary>
    public PeerProfile Profile { get; init; } = PeerProfile.Default;

    /// <summary>Throws when the values do not work together, naming every problem at once.</summary>
    /// <exception cref="ArgumentException">One or more values are out of range.</exception>
    public void Validate()
    {
        List<string> problems = [];
        Range(ResponseTimeoutCode, 0, 31, nameof(ResponseTimeoutCode));
        Range(RetriesMax, 0, 15, nameof(RetriesMax));
        Range(ServiceTimeoutCode, 0, 31, nameof(ServiceTimeoutCode));
        Range(PendingMax, 1, 1 << 16, nameof(PendingMax));
        Range(TimeWaitMax, 1, 1 << 20, nameof(TimeWaitMax));
        Range(TimeWaitCodeMax, 0, 31, nameof(TimeWaitCodeMax));
        Range(StrangerAnswersPerSecond, 1, 1 << 16, nameof(StrangerAnswersPerSecond));
        Range(AckTimeoutCode, 1, 31, nameof(AckTimeoutCode));
        if (ListenerGrace < TimeSpan.Zero)
        {
            problems.Add($"{nameof(ListenerGrace)} must not be negative: {ListenerGrace}");
        }

        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }

        void Range(int value, int least, int most, string name)
        {
            if (value < least || value > most)
            {
                problems.Add($"{name} must be {least} to {most}, not {value}");
            }
        }
    }
}
