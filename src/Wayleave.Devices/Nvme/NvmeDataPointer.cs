using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Nvme;

// PRP (NVM Express Base 2.0, 4.1.1): entry 1 may start inside a page and reaches to its end; what follows is whole
// pages. Entry 2 is the second page, or, for more than two, a list of pages whose last entry in a page leads to the
// next part of the list. SGL (4.1.2): one descriptor in the command, a data block or the address of a segment of
// descriptors; the last descriptor of a segment may lead to the next segment. A bit bucket takes bytes of a read that
// nobody wants.

/// <summary>The places in memory that a command names, in order, fetched and checked when the command is.</summary>
internal sealed class NvmeDataPointer
{
    private const ulong Page = 4096;
    private const int DescriptorBytes = 16;

    // A chain of segments that never ends would keep the controller; 1 MiB in pages is 257 entries.
    private const int EntriesMax = 1024;
    private const int SegmentsMax = 64;

    private readonly List<NvmeSegment> _ranges = new(300);
    private bool _isRead;

    /// <summary>Together as long as the transfer.</summary>
    public IReadOnlyList<NvmeSegment> Segments => _ranges;

    /// <summary>Reads the whole pointer through the port.</summary>
    public NvmeStatus Fetch(in NvmeCommand command, int lengthBytes, DmaPort port)
    {
        _ranges.Clear();
        _isRead = (NvmeOpcode)command.Opcode == NvmeOpcode.Read;
        return command.UsesSgl ? FetchSgl(command, lengthBytes, port) : FetchPrp(command, lengthBytes, port);
    }

    private NvmeStatus FetchPrp(in NvmeCommand command, int lengthBytes, DmaPort port)
    {
        ulong left = (ulong)lengthBytes;
        if (command.DataPointer1 % 4 != 0)
        {
            return NvmeStatus.InvalidPrpOffset;
        }

        Take(command.DataPointer1, Math.Min(left, Page - (command.DataPointer1 % Page)), ref left);
        if (left == 0)
        {
            return NvmeStatus.Success;
        }

        if (left <= Page)
        {
            if (command.DataPointer2 % Page != 0)
            {
                return NvmeStatus.InvalidPrpOffset;
            }

            Take(command.DataPointer2, left, ref left);
            return NvmeStatus.Success;
        }

        ulong list = command.DataPointer2;
        if (list % 8 != 0)
        {
            return NvmeStatus.InvalidPrpOffset;
        }

        while (left > 0)
        {
            if (!TryReadEntry(port, list, out ulong entry))
            {
                return NvmeStatus.DataTransferError;
            }

            bool isLastOfPage = list % Page == Page - 8;
            if (entry % Page != 0 || _ranges.Count >= EntriesMax)
            {
                return NvmeStatus.InvalidPrpOffset;
            }

            if (isLastOfPage && left > Page)
            {
                list = entry;
                continue;
            }

            Take(entry, Math.Min(left, Page), ref left);
            list += 8;
        }

        return NvmeStatus.Success;
    }

    private NvmeStatus FetchSgl(in NvmeCommand command, int lengthBytes, DmaPort port)
    {
        ulong left = (ulong)lengthBytes;
        Span<byte> descriptor = stackalloc byte[DescriptorBytes];
        BinaryPrimitives.WriteUInt64LittleEndian(descriptor, command.DataPointer1);
        BinaryPrimitives.WriteUInt64LittleEndian(descriptor[8..], command.DataPointer2);
        ulong next = 0;
        uint nextLength = 0;
        bool isLast = true;
        NvmeStatus status = TakeDescriptor(descriptor, ref left, isEnd: true, ref next, ref nextLength, ref isLast);
        for (int segments = 0; status == NvmeStatus.Success && nextLength != 0; segments++)
        {
            (ulong at, ulong end) = (next, next + nextLength);
            bool wasLast = isLast;
            if (nextLength % DescriptorBytes != 0 || segments == SegmentsMax)
            {
                return NvmeStatus.InvalidSglSegment;
            }

            nextLength = 0;
            for (; at < end && status == NvmeStatus.Success; at += DescriptorBytes)
            {
                if (!TryReadAll(port, at, descriptor))
                {
                    return NvmeStatus.DataTransferError;
                }

                // Only the last descriptor of a segment that is not the last one leads on.
                bool mayLead = at + DescriptorBytes == end && !wasLast;
                status = TakeDescriptor(descriptor, ref left, mayLead, ref next, ref nextLength, ref isLast);
            }
        }

        return status != NvmeStatus.Success ? status : left == 0 ? NvmeStatus.Success : NvmeStatus.InvalidSglLength;
    }

    private NvmeStatus TakeDescriptor(
        ReadOnlySpan<byte> descriptor, ref ulong left, bool isEnd, ref ulong next, ref uint nextLength, ref bool isLast)
    {
        ulong address = BinaryPrimitives.ReadUInt64LittleEndian(descriptor);
        uint length = BinaryPrimitives.ReadUInt32LittleEndian(descriptor[8..]);
        switch (descriptor[15] >> 4)
        {
            case 0x0 when length <= left && _ranges.Count < EntriesMax: // data block
                Take(address, length, ref left);
                return NvmeStatus.Success;
            case 0x1 when _isRead && length <= left && _ranges.Count < EntriesMax: // bit bucket
                left -= length;
                _ranges.Add(new NvmeSegment(new DeviceRange(default, length), IsDiscarded: true));
                return NvmeStatus.Success;
            case 0x0 or 0x1:
                return NvmeStatus.InvalidSglLength;
            case 0x2 or 0x3 when isEnd: // segment, last segment
                (next, nextLength, isLast) = (address, length, descriptor[15] >> 4 == 0x3);
                return length == 0 ? NvmeStatus.InvalidSglSegment : NvmeStatus.Success;
            case 0x2 or 0x3:
                return NvmeStatus.InvalidSglSegment;
            default:
                return NvmeStatus.InvalidSglType;
        }
    }

    private void Take(ulong address, ulong length, ref ulong left)
    {
        left -= length;
        DeviceRange last = _ranges.Count > 0 ? _ranges[^1].Range : default;
        bool isNext = last.Start + last.LengthBytes == new DeviceAddress(address);
        if (_ranges.Count > 0 && !_ranges[^1].IsDiscarded && isNext)
        {
            _ranges[^1] = new NvmeSegment(last with { LengthBytes = last.LengthBytes + length }, IsDiscarded: false);
        }
        else if (length > 0)
        {
            _ranges.Add(new NvmeSegment(new DeviceRange(new DeviceAddress(address), length), IsDiscarded: false));
        }
    }

    private static bool TryReadEntry(DmaPort port, ulong address, out ulong entry)
    {
        Span<byte> bytes = stackalloc byte[8];
        bool isRead = TryReadAll(port, address, bytes);
        entry = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        return isRead;
    }

    private static bool TryReadAll(DmaPort port, ulong address, Span<byte> target)
    {
        while (target.Length > 0)
        {
            if (port.TryRead(new DeviceAddress(address), target.Length, out ReadOnlySpan<byte> bytes) != Errno.Success)
            {
                return false;
            }

            bytes.CopyTo(target);
            address += (ulong)bytes.Length;
            target = target[bytes.Length..];
        }

        return true;
    }
}

/// <summary>One piece of what a command names: a range of memory, or bytes that are dropped.</summary>
internal readonly record struct NvmeSegment(DeviceRange Range, bool IsDiscarded);
