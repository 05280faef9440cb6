namespace Wayleave.Devices.Nvme;

/// <summary>A range of logical blocks that a controller offers.</summary>
/// <param name="Id">1 and up.</param>
/// <param name="BlockShift">log2 of the block size in bytes: 9 or 12.</param>
/// <param name="BlockCount">Blocks.</param>
/// <param name="IsReadOnly">Writes end with <see cref="NvmeStatus.WriteFault"/>.</param>
public sealed record NvmeNamespace(uint Id, int BlockShift, ulong BlockCount, bool IsReadOnly)
{
    public int BlockBytes => 1 << BlockShift;

    public ulong SizeBytes => BlockCount << BlockShift;
}
