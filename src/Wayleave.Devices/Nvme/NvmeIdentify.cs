using System.Buffers.Binary;
using System.Text;

namespace Wayleave.Devices.Nvme;

/// <summary>The data structures of the Identify command (NVM Express Base 2.0, 5.17): 4096 bytes each.</summary>
internal static class NvmeIdentify
{
    public const int SizeBytes = 4096;

    /// <summary>CNS values.</summary>
    public const byte Namespace = 0x00;

    public const byte Controller = 0x01;

    public const byte ActiveNamespaces = 0x02;

    private const int TransferShift = 8; // MDTS: 2^8 pages of 4 KiB

    public static void WriteController(Span<byte> page, NvmeControllerOptions options, int namespaces)
    {
        page[..SizeBytes].Clear();
        WriteText(page[4..24], options.SerialNumber);
        WriteText(page[24..64], options.Model);
        WriteText(page[64..72], "1");
        page[77] = TransferShift;
        BinaryPrimitives.WriteUInt16LittleEndian(page[78..], 1); // CNTLID
        BinaryPrimitives.WriteUInt32LittleEndian(page[80..], 0x0002_0000); // version 2.0
        page[111] = 1; // CNTRLTYPE: an I/O controller
        page[258] = 3; // ACL: four aborts at once
        page[512] = 0x66; // SQES: 64 bytes
        page[513] = 0x44; // CQES: 16 bytes
        BinaryPrimitives.WriteUInt32LittleEndian(page[516..], (uint)namespaces);
        page[525] = 1; // VWC: flush means something
        BinaryPrimitives.WriteUInt32LittleEndian(page[536..], 1 | (1 << 16)); // SGLS: no alignment, bit buckets
        WriteText(page[768..1024], "nqn.2026-01.org.wayleave:" + options.SerialNumber);
        page.Slice(768 + "nqn.2026-01.org.wayleave:".Length + options.SerialNumber.Length, 1).Clear();
    }

    public static void WriteNamespace(Span<byte> page, NvmeNamespace @namespace)
    {
        page[..SizeBytes].Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(page, @namespace.BlockCount);
        BinaryPrimitives.WriteUInt64LittleEndian(page[8..], @namespace.BlockCount);
        BinaryPrimitives.WriteUInt64LittleEndian(page[16..], @namespace.BlockCount);
        page[99] = @namespace.IsReadOnly ? (byte)1 : (byte)0; // NSATTR: write protected
        page[130] = (byte)@namespace.BlockShift; // LBAF0.LBADS
    }

    public static void WriteActiveNamespaces(Span<byte> page, IReadOnlyList<NvmeNamespace> namespaces, uint above)
    {
        page[..SizeBytes].Clear();
        int at = 0;
        foreach (NvmeNamespace @namespace in namespaces)
        {
            if (@namespace.Id > above && at < SizeBytes)
            {
                BinaryPrimitives.WriteUInt32LittleEndian(page[at..], @namespace.Id);
                at += 4;
            }
        }
    }

    private static void WriteText(Span<byte> field, string text)
    {
        field.Fill((byte)' ');
        Encoding.ASCII.GetBytes(text, field);
    }
}
