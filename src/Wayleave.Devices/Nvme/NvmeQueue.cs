using Wayleave.Core.Topology;

namespace Wayleave.Devices.Nvme;

/// <summary>A submission queue as the controller sees it.</summary>
internal sealed class NvmeSubmissionQueue(int id, DeviceAddress address, int entries, NvmeCompletionQueue completions)
{
    public int Id { get; } = id;

    public int Entries { get; } = entries;

    public NvmeCompletionQueue Completions { get; } = completions;

    public int Head { get; private set; }

    /// <summary>Commands that were fetched and have not completed.</summary>
    public int Outstanding { get; set; }

    /// <summary>Set by a delete: nothing more is fetched.</summary>
    public bool IsDeleted { get; set; }

    public DeviceAddress HeadAddress => address + ((ulong)Head * NvmeCommand.SizeBytes);

    public void Advance() => Head = Head + 1 == Entries ? 0 : Head + 1;
}

/// <summary>A completion queue as the controller sees it.</summary>
internal sealed class NvmeCompletionQueue(int id, DeviceAddress address, int entries, bool interrupts, int vector)
{
    public int Id { get; } = id;

    public int Entries { get; } = entries;

    public bool Interrupts { get; } = interrupts;

    public int Vector { get; } = vector;

    /// <summary>Submission queues that complete here.</summary>
    public int Users { get; set; }

    public int Tail { get; private set; }

    public bool Phase { get; private set; } = true;

    public DeviceAddress TailAddress => address + ((ulong)Tail * NvmeCompletion.SizeBytes);

    /// <summary>One slot stays empty, or full and empty would look alike.</summary>
    public bool HasRoom(int head) => (Tail + 1 == Entries ? 0 : Tail + 1) != head;

    public void Advance()
    {
        Tail++;
        if (Tail == Entries)
        {
            (Tail, Phase) = (0, !Phase);
        }
    }
}
