namespace Wayleave.Devices.Nvme;

/// <summary>What a controller is made of; copied when it is made.</summary>
public sealed record NvmeControllerOptions
{
    public const int TransferBytesMax = 1 << 20;

    /// <summary>As in Identify: at most 20 characters.</summary>
    public string SerialNumber { get; init; } = "WL000001";

    /// <summary>As in Identify: at most 40 characters.</summary>
    public string Model { get; init; } = "Wayleave software NVMe drive";

    /// <summary>
    /// Commands that are in the controller at once, each with a buffer of <see cref="TransferBytesMax"/>; one of them
    /// is for the admin queue.
    /// </summary>
    public int RequestsMax { get; init; } = 16;

    /// <summary>I/O queue pairs that may be created.</summary>
    public int QueuesMax { get; init; } = 16;

    /// <summary>Entries of a queue at most (CAP.MQES and one).</summary>
    public int QueueEntriesMax { get; init; } = 1024;

    /// <summary>Bytes copied in one step.</summary>
    public int BlockBytes { get; init; } = 64 * 1024;

    /// <exception cref="ArgumentException">An option is out of range.</exception>
    internal void Validate()
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(SerialNumber.Length is > 0 and <= 20, true, nameof(SerialNumber));
        ArgumentOutOfRangeException.ThrowIfNotEqual(Model.Length is > 0 and <= 40, true, nameof(Model));
        ArgumentOutOfRangeException.ThrowIfNotEqual(RequestsMax is > 1 and <= 1024, true, nameof(RequestsMax));
        ArgumentOutOfRangeException.ThrowIfNotEqual(QueuesMax is > 0 and <= 1023, true, nameof(QueuesMax));
        ArgumentOutOfRangeException.ThrowIfNotEqual(QueueEntriesMax is > 1 and <= 65536, true, nameof(QueueEntriesMax));
        ArgumentOutOfRangeException.ThrowIfNotEqual(BlockBytes is > 0 and <= 64 * 1024, true, nameof(BlockBytes));
    }
}
