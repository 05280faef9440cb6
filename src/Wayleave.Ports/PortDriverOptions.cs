namespace Wayleave.Ports;

/// <summary>How a port is driven. The defaults are those of docs/adr/0005.</summary>
public sealed record PortDriverOptions
{
    /// <summary>
    /// Super-packets handled each way while the port token is held: longer holds starve an owner who revokes.
    /// </summary>
    public int BatchSuperPackets { get; init; } = 4;

    /// <summary>
    /// Polls of an application that find nothing before each of them offers the processor to others: on a machine with
    /// few, the peer whose answer is waited for may have none.
    /// </summary>
    public int IdlePollsBeforeYield { get; init; } = 4;

    /// <summary>
    /// How long the engine thread stays away when it finds that an application polls the port itself; twice as long
    /// each time that it goes on polling without a break.
    /// </summary>
    public TimeSpan EngineStandBack { get; init; } = TimeSpan.FromMilliseconds(1);

    /// <summary>
    /// The longest of these times: how late what arrives may be looked at after an application that polled all the time
    /// has stopped without a word (<see cref="PortDriver.ExpectWait"/>).
    /// </summary>
    public TimeSpan EngineStandBackMax { get; init; } = TimeSpan.FromMilliseconds(8);

    /// <summary>How long the engine thread looks for work before it sleeps in poll(2).</summary>
    public TimeSpan EngineIdleSpin { get; init; } = TimeSpan.FromMicroseconds(50);

    /// <summary>The longest sleep; a deadline of the port cuts it short.</summary>
    public TimeSpan EngineSleepMax { get; init; } = TimeSpan.FromMilliseconds(100);

    /// <summary>
    /// Which of the processors that the process may use the engine thread stays on, from 0, or null for the
    /// scheduler's choice. Where there are not so many it is the scheduler's choice too.
    /// </summary>
    public int? EngineProcessor { get; init; }

    /// <summary>
    /// Whether this driver has an engine thread at all: a benchmark that always polls may do without.
    /// </summary>
    public bool HasEngine { get; init; } = true;

    /// <summary>
    /// Off lets an engine that was woken rely on an application's polls again: for the test that must notice.
    /// </summary>
    internal bool EngineHeedsWakes { get; init; } = true;

    /// <summary>
    /// Off lets the engine rely on an application that has long stopped polling: for the test that must notice.
    /// </summary>
    internal bool EngineForgetsOldPolls { get; init; } = true;
}
