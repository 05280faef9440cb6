using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Scenarios.Vectors;

/// <summary>
/// Host memory behind a region of a description, filled as that says: exports a static <see cref="SharedBuffer"/>.
/// </summary>
internal sealed class ReplayMemory : IExporter
{
    /// <summary>A description asks for no more, or it is damaged.</summary>
    public const ulong BytesMax = 256 << 20;

    private const ulong PageBytes = 4096;

    private readonly DmaAddressList _addresses;
    private readonly byte[] _bytes;

    /// <summary>Host lock held by the caller.</summary>
    /// <exception cref="FormatException">The region is too large, or a fill does not fit it.</exception>
    public ReplayMemory(HostContext host, PciFabric fabric, VectorRegion region)
    {
        if (region.Length is 0 or > BytesMax)
        {
            throw new FormatException(
                $"region {region.Name} has {region.Length} bytes; 1 to {BytesMax} can be replayed");
        }

        // A registration keeps the place within a page: the first bytes of the buffer are those before the region.
        Name = region.Name;
        Va = region.Va.Value;
        BufferOffset = region.Va.Value % PageBytes;
        _bytes = new byte[BufferOffset + region.Length];
        MemoryWindow window = fabric.AddWindow(_bytes, owner: null);
        _addresses = new DmaAddressList([window.Range]);
        ExportInfo info = new(this, "replayed region", (ulong)_bytes.Length);
        SharedBuffer.TryExport(host, info, out SharedBuffer? buffer);
        Buffer = buffer!;
        foreach (VectorFill fill in region.InitialContent.Overrides ?? [])
        {
            Fill(region, fill);
        }
    }

    public string Name { get; }

    public StorageKind Storage => StorageKind.Static;

    public SharedBuffer Buffer { get; }

    /// <summary>Address of the region's first byte.</summary>
    public ulong Va { get; }

    /// <summary>Where in <see cref="Buffer"/> that byte is.</summary>
    public ulong BufferOffset { get; }

    /// <summary>The bytes of a range of addresses; false when it is not inside.</summary>
    public bool TryGet(ulong va, int lengthBytes, out ReadOnlySpan<byte> bytes)
    {
        ulong held = (ulong)_bytes.Length - BufferOffset;
        bool isInside = va >= Va && va - Va <= held && lengthBytes >= 0 && (ulong)lengthBytes <= held - (va - Va);
        bytes = isInside ? _bytes.AsSpan((int)(BufferOffset + (va - Va)), lengthBytes) : default;
        return isInside;
    }

    /// <summary>False when the range is not inside.</summary>
    public bool TryWrite(ulong va, ReadOnlySpan<byte> bytes)
    {
        bool isInside = TryGet(va, bytes.Length, out _);
        if (isInside)
        {
            bytes.CopyTo(_bytes.AsSpan((int)(BufferOffset + (va - Va))));
        }

        return isInside;
    }

    Errno IExporter.Attach(Attachment attachment) => Errno.Success;

    void IExporter.Detach(Attachment attachment)
    {
        // Static storage: nothing depends on who is attached.
    }

    Errno IExporter.Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        addresses = _addresses;
        return Errno.Success;
    }

    void IExporter.Unmap(Attachment attachment, DmaAddressList addresses)
    {
        // One list for all.
    }

    void IExporter.Release(SharedBuffer buffer)
    {
        // The collector frees the bytes.
    }

    private void Fill(VectorRegion region, VectorFill fill)
    {
        bool isInside = fill.Length >= 0
            && fill.Offset.Value <= region.Length
            && (ulong)fill.Length <= region.Length - fill.Offset.Value;
        if (!isInside || (fill.Rule == "u64le" && fill.Length != sizeof(ulong)))
        {
            throw new FormatException(
                $"region {region.Name}: an override of {fill.Length} bytes at {fill.Offset} does not fit");
        }

        Span<byte> bytes = _bytes.AsSpan((int)(BufferOffset + fill.Offset.Value), fill.Length);
        if (fill.Rule == "u64le")
        {
            HexNumber value = fill.Value ?? throw new FormatException($"region {region.Name}: u64le has no value");
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, value.Value);
            return;
        }

        int seed = fill.Seed ?? throw new FormatException($"region {region.Name}: bytes has no seed");
        for (int i = 0; i < bytes.Length; i++)
        {
            bytes[i] = (byte)(7 * i + seed);
        }
    }
}
