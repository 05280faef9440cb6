namespace Wayleave.Devices.Nvme;

/// <summary>
/// How a command ended: status code type in bits 8 to 10, status code below (NVM Express Base 2.0, 4.2.3), as in the
/// completion entry shifted by its phase bit and in <c>NVME_SC_*</c> of <c>include/linux/nvme.h</c>.
/// </summary>
public enum NvmeStatus
{
    Success = 0x000,
    InvalidOpcode = 0x001,
    InvalidField = 0x002,
    CommandIdConflict = 0x003,

    /// <summary>A data, PRP or SGL address did not answer.</summary>
    DataTransferError = 0x004,
    InternalError = 0x006,
    AbortRequested = 0x007,
    QueueDeleted = 0x008,
    InvalidNamespace = 0x00B,
    InvalidSglSegment = 0x00D,
    InvalidSglCount = 0x00E,
    InvalidSglLength = 0x00F,
    InvalidSglType = 0x011,
    InvalidPrpOffset = 0x013,
    LbaOutOfRange = 0x080,
    CompletionQueueInvalid = 0x100,
    InvalidQueueId = 0x101,
    InvalidQueueSize = 0x102,
    InvalidQueueDeletion = 0x10C,
    WriteFault = 0x280,
    UnrecoveredReadError = 0x281,
}

/// <summary>Opcodes of the admin command set (NVM Express Base 2.0, figure 138).</summary>
public enum NvmeAdminOpcode
{
    DeleteSubmissionQueue = 0x00,
    CreateSubmissionQueue = 0x01,
    DeleteCompletionQueue = 0x04,
    CreateCompletionQueue = 0x05,
    Identify = 0x06,
    Abort = 0x08,
    SetFeatures = 0x09,
    GetFeatures = 0x0A,
}

/// <summary>Opcodes of the NVM command set (NVM Command Set 1.0, figure 17).</summary>
public enum NvmeOpcode
{
    Flush = 0x00,
    Write = 0x01,
    Read = 0x02,
}
