using System.Buffers.Binary;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Nvme;

/// <summary>
/// Writes the data pointers of a driver's commands: PRP where the memory is whole pages, as almost always; otherwise a
/// segment of SGL descriptors. Each command has a page for its entries.
/// </summary>
internal static class NvmePointerWriter
{
    private const int PageBytes = 4096;
    private const int DescriptorBytes = 16;

    /// <summary>Points a command at the memory of a transfer.</summary>
    /// <param name="transfer">Read or write.</param>
    /// <param name="list">The page of entries.</param>
    /// <param name="listAddress">The same, as the controller reaches it.</param>
    /// <param name="zerosAddress">A page of zeros, for what a write has beyond its memory.</param>
    /// <param name="command">Gets the pointer.</param>
    /// <returns>False for what <see cref="NvmeDriver.TrySubmit"/> refuses with EINVAL.</returns>
    public static bool TryPoint(
        NvmeTransfer transfer, Span<byte> list, ulong listAddress, ulong zerosAddress, ref NvmeCommand command)
    {
        ulong length = (ulong)transfer.BlockCount * (ulong)transfer.BlockBytes;
        if (transfer.Addresses is null || length is 0 or > NvmeControllerOptions.TransferBytesMax
            || transfer.Offset >= transfer.Addresses.LengthBytes)
        {
            return false;
        }

        ulong surplus = length - Math.Min(length, transfer.Addresses.LengthBytes - transfer.Offset);
        if (surplus >= (ulong)transfer.BlockBytes)
        {
            return false;
        }

        return (surplus == 0 && TryPointByPrp(transfer, length, list, listAddress, ref command))
            || TryPointBySgl(transfer, length - surplus, surplus, list, listAddress, zerosAddress, ref command);
    }

    private static bool TryPointByPrp(
        NvmeTransfer transfer, ulong length, Span<byte> list, ulong listAddress, ref NvmeCommand command)
    {
        int pages = 0;
        for (ulong done = 0; done < length;)
        {
            transfer.Addresses!.TryLocate(transfer.Offset + done, out DeviceAddress at, out ulong contiguous);
            ulong run = Math.Min(contiguous, length - done);
            bool isFirst = done == 0;
            bool isLast = done + run == length;
            if ((at.Value % PageBytes != 0 && !isFirst) || at.Value % 4 != 0
                || ((at.Value + run) % PageBytes != 0 && !isLast))
            {
                return false;
            }

            ulong end = at.Value + run;
            for (ulong page = at.Value; page < end; page = (page & ~(ulong)(PageBytes - 1)) + PageBytes)
            {
                if (pages == 0)
                {
                    command = command with { DataPointer1 = page };
                }
                else
                {
                    BinaryPrimitives.WriteUInt64LittleEndian(list[((pages - 1) * 8)..], page);
                }

                pages++;
            }

            done += run;
        }

        command = command with
        {
            DataPointer2 = pages switch
            {
                1 => 0,
                2 => BinaryPrimitives.ReadUInt64LittleEndian(list),
                _ => listAddress,
            },
        };
        return true;
    }

    private static bool TryPointBySgl(
        NvmeTransfer transfer,
        ulong length,
        ulong surplus,
        Span<byte> list,
        ulong listAddress,
        ulong zerosAddress,
        ref NvmeCommand command)
    {
        int count = 0;
        for (ulong done = 0; done < length;)
        {
            transfer.Addresses!.TryLocate(transfer.Offset + done, out DeviceAddress at, out ulong contiguous);
            ulong run = Math.Min(contiguous, length - done);
            if (count == PageBytes / DescriptorBytes)
            {
                return false;
            }

            Span<byte> descriptor = list.Slice(count++ * DescriptorBytes, DescriptorBytes);
            descriptor.Clear(); // type 0: a data block
            BinaryPrimitives.WriteUInt64LittleEndian(descriptor, at.Value);
            BinaryPrimitives.WriteUInt32LittleEndian(descriptor[8..], (uint)run);
            done += run;
        }

        if (surplus > 0)
        {
            if (count == PageBytes / DescriptorBytes)
            {
                return false;
            }

            // What is read beyond the end is dropped; what is written there is zero.
            Span<byte> last = list.Slice(count++ * DescriptorBytes, DescriptorBytes);
            last.Clear();
            BinaryPrimitives.WriteUInt32LittleEndian(last[8..], (uint)surplus);
            if (transfer.Opcode == NvmeOpcode.Read)
            {
                last[15] = 0x10; // a bit bucket
            }
            else
            {
                BinaryPrimitives.WriteUInt64LittleEndian(last, zerosAddress);
            }
        }

        command = command with
        {
            UsesSgl = true,
            DataPointer1 = listAddress,
            DataPointer2 = (uint)(count * DescriptorBytes) | (0x30UL << 56), // the last segment
        };
        return true;
    }
}
