namespace Wayleave.Devices.Nvme;

/// <summary>Offsets in BAR 0 (NVM Express Base 2.0, 3.1.3).</summary>
public static class NvmeRegister
{
    public const int Capabilities = 0x00;
    public const int Version = 0x08;
    public const int InterruptMaskSet = 0x0C;
    public const int InterruptMaskClear = 0x10;
    public const int Configuration = 0x14;
    public const int Status = 0x1C;
    public const int AdminQueueAttributes = 0x24;
    public const int AdminSubmissionQueue = 0x28;
    public const int AdminCompletionQueue = 0x30;
    public const int MemoryBufferLocation = 0x38;
    public const int MemoryBufferSize = 0x3C;

    /// <summary>
    /// The first doorbell; submission tail and completion head of a queue follow one another, 4 bytes each.
    /// </summary>
    public const int Doorbells = 0x1000;

    /// <summary>CC.EN.</summary>
    public const uint Enable = 1;

    /// <summary>CC.SHN: a normal shutdown.</summary>
    public const uint ShutdownNormal = 1u << 14;

    /// <summary>CC.SHN.</summary>
    public const uint ShutdownMask = 3u << 14;

    /// <summary>CSTS.RDY.</summary>
    public const uint Ready = 1;

    /// <summary>CSTS.CFS: the controller has failed and wants a reset.</summary>
    public const uint Fatal = 2;

    /// <summary>CSTS.SHST: the shutdown is over.</summary>
    public const uint ShutdownComplete = 2u << 2;

    /// <summary>Where the tail of a submission queue is announced.</summary>
    public static int SubmissionTail(int queue) => Doorbells + (8 * queue);

    /// <summary>Where the head of a completion queue is announced.</summary>
    public static int CompletionHead(int queue) => Doorbells + (8 * queue) + 4;
}
