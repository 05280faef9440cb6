namespace Wayleave.Scenarios.TakeBack;

/// <summary>How large the workload of a comparison is.</summary>
public sealed record TakeBackOptions
{
    /// <summary>Simulated time for which each strategy runs.</summary>
    public TimeSpan Duration { get; init; } = TimeSpan.FromMilliseconds(20);

    /// <summary>Simulated time from one time that memory is short to the next.</summary>
    public TimeSpan PressurePeriod { get; init; } = TimeSpan.FromMicroseconds(400);

    /// <summary>Pages of 4 KiB of the process that are wanted each time.</summary>
    public int PressurePages { get; init; } = 6;

    /// <summary>Bytes of a WRITE of the peer, and of what a job reads: whole pages.</summary>
    public int MessageBytes { get; init; } = 16 << 10;

    /// <summary>Messages of the process's memory that are in use: twice as many pages as these hold, and one.</summary>
    public int Slots { get; init; } = 4;

    /// <summary>Pairs of jobs, and WRITEs, under way at once.</summary>
    public int Depth { get; init; } = 2;

    /// <summary>Orders of a small workload that are drawn to look for circles; 0 looks for none.</summary>
    public int ExploredOrders { get; init; } = 200;

    /// <summary>Where drawn orders start.</summary>
    public ulong Seed { get; init; } = 1;

    /// <summary>Names of strategies and mixes (<see cref="TakeBackStrategy.Find"/>), or empty for all.</summary>
    public IReadOnlyList<string> Strategies { get; init; } = [];

    /// <summary>What time the devices are given.</summary>
    public TakeBackCosts Costs { get; init; } = new();

    /// <summary>Throws one exception that names everything that is wrong.</summary>
    /// <exception cref="ArgumentException">A value is out of range, or no strategy has that name.</exception>
    public void Validate()
    {
        List<string> problems = [];
        if (Duration <= TimeSpan.Zero || Duration > TimeSpan.FromSeconds(10))
        {
            problems.Add($"the duration is more than nothing and at most 10 s, not {Duration}");
        }

        if (PressurePeriod < TimeSpan.FromMicroseconds(1))
        {
            problems.Add($"memory is short once a microsecond at most, not every {PressurePeriod}");
        }

        if (PressurePages is < 1 or > 4096)
        {
            problems.Add($"1 to 4096 pages are wanted at once, not {PressurePages}");
        }

        if (MessageBytes is < 4096 or > (1 << 20) || MessageBytes % 4096 != 0)
        {
            problems.Add($"a message is whole pages up to 1 MiB, not {MessageBytes} bytes");
        }

        if (Slots is < 1 or > 64 || Depth is < 1 or > 16)
        {
            problems.Add($"there are 1 to 64 slots and 1 to 16 under way, not {Slots} and {Depth}");
        }

        if (ExploredOrders is < 0 or > 1_000_000)
        {
            problems.Add($"0 to 1000000 orders are explored, not {ExploredOrders}");
        }

        foreach (string name in Strategies)
        {
            if (TakeBackStrategy.Find(name) is null)
            {
                string known = string.Join(", ", TakeBackStrategy.All.Select(s => s.Name));
                string mixes = string.Join(", ", TakeBackStrategy.Mixes.Select(s => s.Name));
                problems.Add(
                    $"no strategy is called '{name}'; there are {known}; mixes of them: {mixes}, or any three as "
                    + "GPU+MEMORY+BUFFER");
            }
        }

        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }
    }
}

/// <summary>
/// What one step of each takes in simulated time: the only figures of the comparison that are chosen and not found.
/// </summary>
public sealed record TakeBackCosts
{
    /// <summary>A block of a GPU's engine: 4 KiB of each operand.</summary>
    public TimeSpan EngineBlock { get; init; } = TimeSpan.FromMicroseconds(1);

    /// <summary>A packet of 4 KiB, at either end (about 80 Gbit/s).</summary>
    public TimeSpan Packet { get; init; } = TimeSpan.FromTicks(4);

    /// <summary>A step of an operation on an address space.</summary>
    public TimeSpan SpaceStep { get; init; } = TimeSpan.FromTicks(5);

    /// <summary>A page to or from the swap device, besides the step.</summary>
    public TimeSpan SwapPage { get; init; } = TimeSpan.FromMicroseconds(10);

    /// <summary>A system call of the program: a submission, a doorbell.</summary>
    public TimeSpan Submission { get; init; } = TimeSpan.FromMicroseconds(2);

    /// <summary>A thread that slept is running again.</summary>
    public TimeSpan WakeUp { get; init; } = TimeSpan.FromMicroseconds(5);

    /// <summary>From a device's interrupt until its fault is being served.</summary>
    public TimeSpan FaultInterrupt { get; init; } = TimeSpan.FromMicroseconds(5);

    /// <summary>A new connection after an error: two round trips of a connection manager.</summary>
    public TimeSpan Reconnect { get; init; } = TimeSpan.FromMicroseconds(200);
}
