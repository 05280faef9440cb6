using System.Buffers.Binary;

namespace Wayleave.Devices.Nvme;

/// <summary>A submission queue entry (NVM Express Base 2.0, figure 87): 64 bytes, little endian.</summary>
public readonly record struct NvmeCommand
{
    public const int SizeBytes = 64;

    public byte Opcode { get; init; }

    /// <summary>Chosen by the host; comes back in the completion.</summary>
    public ushort CommandId { get; init; }

    /// <summary>
    /// How <see cref="DataPointer1"/> and <see cref="DataPointer2"/> are meant: PRP entries or one SGL descriptor.
    /// </summary>
    public bool UsesSgl { get; init; }

    public uint NamespaceId { get; init; }

    /// <summary>PRP entry 1, or the address of an SGL descriptor.</summary>
    public ulong DataPointer1 { get; init; }

    /// <summary>PRP entry 2, or length and type of an SGL descriptor.</summary>
    public ulong DataPointer2 { get; init; }

    /// <summary>Command dwords 10 to 15.</summary>
    public uint Dword10 { get; init; }

    public uint Dword11 { get; init; }

    public uint Dword12 { get; init; }

    public uint Dword13 { get; init; }

    public uint Dword14 { get; init; }

    public uint Dword15 { get; init; }

    /// <summary>The first logical block of a read or write.</summary>
    public ulong StartLba => Dword10 | ((ulong)Dword11 << 32);

    /// <summary>Logical blocks of a read or write; one at least.</summary>
    public int BlockCount => (int)(Dword12 & 0xFFFF) + 1;

    /// <summary>A read, write or flush of a namespace.</summary>
    public static NvmeCommand Io(NvmeOpcode opcode, uint namespaceId, ulong lba, int blocks) => new()
    {
        Opcode = (byte)opcode,
        NamespaceId = namespaceId,
        Dword10 = (uint)lba,
        Dword11 = (uint)(lba >> 32),
        Dword12 = blocks == 0 ? 0 : (uint)(blocks - 1),
    };

    /// <summary>Reads one from 64 bytes.</summary>
    public static NvmeCommand Read(ReadOnlySpan<byte> entry)
    {
        uint first = BinaryPrimitives.ReadUInt32LittleEndian(entry);
        return new NvmeCommand
        {
            Opcode = (byte)first,
            CommandId = (ushort)(first >> 16),
            UsesSgl = (first & 0xC000) != 0,
            NamespaceId = BinaryPrimitives.ReadUInt32LittleEndian(entry[4..]),
            DataPointer1 = BinaryPrimitives.ReadUInt64LittleEndian(entry[24..]),
            DataPointer2 = BinaryPrimitives.ReadUInt64LittleEndian(entry[32..]),
            Dword10 = BinaryPrimitives.ReadUInt32LittleEndian(entry[40..]),
            Dword11 = BinaryPrimitives.ReadUInt32LittleEndian(entry[44..]),
            Dword12 = BinaryPrimitives.ReadUInt32LittleEndian(entry[48..]),
            Dword13 = BinaryPrimitives.ReadUInt32LittleEndian(entry[52..]),
            Dword14 = BinaryPrimitives.ReadUInt32LittleEndian(entry[56..]),
            Dword15 = BinaryPrimitives.ReadUInt32LittleEndian(entry[60..]),
        };
    }

    /// <summary>Writes the 64 bytes.</summary>
    public void Write(Span<byte> entry)
    {
        entry[..SizeBytes].Clear();
        uint first = Opcode | ((uint)CommandId << 16) | (UsesSgl ? 0x4000u : 0);
        BinaryPrimitives.WriteUInt32LittleEndian(entry, first);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[4..], NamespaceId);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[24..], DataPointer1);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[32..], DataPointer2);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[40..], Dword10);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[44..], Dword11);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[48..], Dword12);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[52..], Dword13);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[56..], Dword14);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[60..], Dword15);
    }
}

/// <summary>A completion queue entry (NVM Express Base 2.0, figure 90): 16 bytes, little endian.</summary>
public readonly record struct NvmeCompletion
{
    public const int SizeBytes = 16;

    /// <summary>Command specific.</summary>
    public uint Result { get; init; }

    /// <summary>How far the controller has read the submission queue.</summary>
    public ushort SubmissionHead { get; init; }

    public ushort SubmissionQueue { get; init; }

    public ushort CommandId { get; init; }

    /// <summary>Turns over each time the queue wraps: how the host knows a new entry.</summary>
    public bool Phase { get; init; }

    public NvmeStatus Status { get; init; }

    public static NvmeCompletion Read(ReadOnlySpan<byte> entry)
    {
        uint last = BinaryPrimitives.ReadUInt32LittleEndian(entry[12..]);
        return new NvmeCompletion
        {
            Result = BinaryPrimitives.ReadUInt32LittleEndian(entry),
            SubmissionHead = BinaryPrimitives.ReadUInt16LittleEndian(entry[8..]),
            SubmissionQueue = BinaryPrimitives.ReadUInt16LittleEndian(entry[10..]),
            CommandId = (ushort)last,
            Phase = (last & 0x10000) != 0,
            Status = (NvmeStatus)((last >> 17) & 0x7FF),
        };
    }

    /// <summary>Writes all but the last four bytes.</summary>
    public void WriteBody(Span<byte> entry)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(entry, Result);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[4..], 0);
        BinaryPrimitives.WriteUInt16LittleEndian(entry[8..], SubmissionHead);
        BinaryPrimitives.WriteUInt16LittleEndian(entry[10..], SubmissionQueue);
    }

    /// <summary>Writes the last four bytes, phase among them: the entry is there for the host from now on.</summary>
    public void WritePhase(Span<byte> entry) => BinaryPrimitives.WriteUInt32LittleEndian(
        entry[12..], CommandId | (Phase ? 0x10000u : 0) | ((uint)Status << 17));
}
