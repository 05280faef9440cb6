namespace Wayleave.Devices.Rdma;

/// <summary>
/// Congestion control after DCQCN (Zhu and others, SIGCOMM 2015), whose names these are. Vendors disagree on the
/// numbers; the defaults are the paper's, but for the timer, where they are the vendors'.
/// </summary>
public sealed record CongestionOptions
{
    /// <summary>A queue pair sends one CNP in that time at most.</summary>
    public TimeSpan NotificationInterval { get; init; } = TimeSpan.FromMicroseconds(50);

    /// <summary>What is sent when nothing is congested, bytes per second.</summary>
    public double LineRate { get; init; } = 1.25e9;

    /// <summary>No queue pair is slowed down below that, bytes per second.</summary>
    public double MinimumRate { get; init; } = 1.25e6;

    /// <summary>How fast the estimate of congestion follows (g).</summary>
    public double Gain { get; init; } = 1.0 / 256;

    /// <summary>The estimate falls each time that no CNP came for so long.</summary>
    public TimeSpan EstimateTimer { get; init; } = TimeSpan.FromMicroseconds(55);

    /// <summary>The rate rises after so long.</summary>
    public TimeSpan IncreaseTimer { get; init; } = TimeSpan.FromMicroseconds(300);

    /// <summary>The rate rises after so many bytes, too.</summary>
    public long IncreaseBytes { get; init; } = 10_000_000;

    /// <summary>Rises that halve the distance to the rate before the cut; then it grows (F).</summary>
    public int FastRecoverySteps { get; init; } = 5;

    /// <summary>A step of additive increase, bytes per second: 40 Mbit/s.</summary>
    public double AdditiveStep { get; init; } = 5e6;

    /// <summary>A step of hyper increase, bytes per second.</summary>
    public double HyperStep { get; init; } = 5e7;

    /// <summary>
    /// A time-out or a sequence error counts as a CNP: the loopback and many paths lose packets and mark none.
    /// </summary>
    public bool ReactsToLoss { get; init; } = true;

    internal void Validate(List<string> problems)
    {
        Check(MinimumRate > 0 && MinimumRate <= LineRate, $"{nameof(MinimumRate)} must be above 0 and below the line");
        Check(Gain is > 0 and <= 1, $"{nameof(Gain)} must be above 0 and at most 1, not {Gain}");
        Check(EstimateTimer > TimeSpan.Zero, $"{nameof(EstimateTimer)} must be positive");
        Check(IncreaseTimer > TimeSpan.Zero, $"{nameof(IncreaseTimer)} must be positive");
        Check(IncreaseBytes > 0, $"{nameof(IncreaseBytes)} must be positive");
        Check(FastRecoverySteps >= 0, $"{nameof(FastRecoverySteps)} must not be negative");
        Check(AdditiveStep > 0 && HyperStep > 0, "a step of increase must be positive");
        Check(NotificationInterval >= TimeSpan.Zero, $"{nameof(NotificationInterval)} must not be negative");

        void Check(bool holds, string problem)
        {
            if (!holds)
            {
                problems.Add($"{nameof(RdmaDeviceOptions.Congestion)}: {problem}");
            }
        }
    }
}
