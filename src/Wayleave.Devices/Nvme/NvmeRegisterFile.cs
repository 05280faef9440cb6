namespace Wayleave.Devices.Nvme;

/// <summary>
/// The registers of a controller: numbers that any thread writes and the holder of the token acts on. Only
/// <see cref="Status"/> is the controller's to write.
/// </summary>
internal sealed class NvmeRegisterFile(NvmeControllerOptions options, int memoryBufferPages)
{
    private const uint MemoryBufferUses = 0x1F; // CMBSZ: queues, lists, read and write data

    private readonly int[] _tails = new int[options.QueuesMax + 1];
    private readonly int[] _heads = new int[options.QueuesMax + 1];
    private uint _configuration;
    private uint _status;
    private uint _interruptMask;
    private uint _adminAttributes;
    private ulong _adminSubmission;
    private ulong _adminCompletion;

    public uint Configuration => Volatile.Read(ref _configuration);

    public uint Status
    {
        get => Volatile.Read(ref _status);
        set => Volatile.Write(ref _status, value);
    }

    public uint AdminAttributes => Volatile.Read(ref _adminAttributes);

    public ulong AdminSubmission => Volatile.Read(ref _adminSubmission);

    public ulong AdminCompletion => Volatile.Read(ref _adminCompletion);

    private ulong Capabilities =>
        (ulong)(options.QueueEntriesMax - 1) // MQES
        | (1UL << 16) // CQR: queues are contiguous
        | (20UL << 24) // TO: 10 s
        | (1UL << 37); // CSS: the NVM command set

    public ulong Read(int offset) => offset switch
    {
        NvmeRegister.Capabilities => Capabilities,
        NvmeRegister.Version => 0x0002_0000,
        NvmeRegister.InterruptMaskSet or NvmeRegister.InterruptMaskClear => Volatile.Read(ref _interruptMask),
        NvmeRegister.Configuration => Configuration,
        NvmeRegister.Status => Status,
        NvmeRegister.AdminQueueAttributes => AdminAttributes,
        NvmeRegister.AdminSubmissionQueue => AdminSubmission,
        NvmeRegister.AdminCompletionQueue => AdminCompletion,
        NvmeRegister.MemoryBufferLocation => memoryBufferPages == 0 ? 0 : (uint)NvmeController.MemoryBufferBar,
        NvmeRegister.MemoryBufferSize =>
            memoryBufferPages == 0 ? 0 : ((uint)memoryBufferPages << 12) | MemoryBufferUses,
        _ => 0,
    };

    public void Write(int offset, ulong value)
    {
        switch (offset)
        {
            case NvmeRegister.InterruptMaskSet:
                Interlocked.Or(ref _interruptMask, (uint)value);
                break;
            case NvmeRegister.InterruptMaskClear:
                Interlocked.And(ref _interruptMask, ~(uint)value);
                break;
            case NvmeRegister.Configuration:
                Volatile.Write(ref _configuration, (uint)value);
                break;
            case NvmeRegister.AdminQueueAttributes:
                Volatile.Write(ref _adminAttributes, (uint)value);
                break;
            case NvmeRegister.AdminSubmissionQueue:
                Volatile.Write(ref _adminSubmission, value);
                break;
            case NvmeRegister.AdminCompletionQueue:
                Volatile.Write(ref _adminCompletion, value);
                break;
            case >= NvmeRegister.Doorbells when (offset & 3) == 0:
                int queue = (offset - NvmeRegister.Doorbells) / 8;
                if (queue <= options.QueuesMax)
                {
                    SetDoorbell(queue, (offset & 4) == 0, (int)(value & 0xFFFF));
                }

                break;
        }
    }

    /// <summary>How far the host says it has filled a submission queue; not checked.</summary>
    public int Tail(int queue) => Volatile.Read(ref _tails[queue]);

    /// <summary>How far the host says it has read a completion queue; not checked.</summary>
    public int Head(int queue) => Volatile.Read(ref _heads[queue]);

    public void SetDoorbell(int queue, bool isSubmission, int value) =>
        Volatile.Write(ref isSubmission ? ref _tails[queue] : ref _heads[queue], value);

    public void ClearDoorbells()
    {
        Array.Clear(_tails);
        Array.Clear(_heads);
    }

    public bool IsMasked(int vector) => (Volatile.Read(ref _interruptMask) >> (vector & 31) & 1) != 0;
}
