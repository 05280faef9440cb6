using System.Buffers.Binary;
using System.Text;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Nvme;
using Xunit;

namespace Wayleave.Tests.Nvme;

public sealed class NvmeControllerTests
{
    private const int Page = NvmeFixture.Page;

    [Fact]
    public void A_driver_enables_it_and_makes_a_queue_pair()
    {
        NvmeFixture f = new();

        f.Ready();

        Assert.Equal(NvmeRegister.Ready, f.Controller.ReadRegister(NvmeRegister.Status));
        Assert.Equal(1023UL, f.Controller.ReadRegister(NvmeRegister.Capabilities) & 0xFFFF);
        Assert.Equal(2UL, f.Controller.ReadRegister(NvmeRegister.MemoryBufferLocation));
        Assert.Equal(64UL, f.Controller.ReadRegister(NvmeRegister.MemoryBufferSize) >> 12);
    }

    [Theory]
    [InlineData(0, 1)]
    [InlineData(0, 8)]
    [InlineData(0, 9)]
    [InlineData(512, 8)]
    [InlineData(512, 17)]
    [InlineData(0, 2048)]
    [InlineData(2048, 2048)]
    [InlineData(4, 16)]
    public void A_read_puts_the_blocks_where_PRP_entries_say(int offset, int blocks)
    {
        NvmeFixture f = new();
        f.Ready();
        byte[] memory = new byte[(2 << 20) + Page];
        int length = blocks * NvmeFixture.Block;

        NvmeStatus status = f.Transfer(NvmeOpcode.Read, f.Map(memory, (offset, length)), lba: 7, blocks);

        Assert.Equal(NvmeStatus.Success, status);
        Assert.Equal(f.Medium.AsSpan(7 * NvmeFixture.Block, length), memory.AsSpan(offset, length));
        Assert.True(memory.AsSpan(0, offset).IndexOfAnyExcept((byte)0) < 0, "bytes before the transfer changed");
        Assert.True(memory.AsSpan(offset + length).IndexOfAnyExcept((byte)0) < 0, "bytes behind the transfer changed");
    }

    [Fact]
    public void What_is_not_made_of_whole_pages_goes_by_SGL()
    {
        NvmeFixture f = new();
        f.Ready();
        byte[] memory = new byte[4 * Page];
        DmaAddressList list = f.Map(memory, (100, 300), (5000, 212), (9000, 512));

        Assert.Equal(NvmeStatus.Success, f.Transfer(NvmeOpcode.Read, list, lba: 3, blocks: 2));

        byte[] expected = f.Medium.AsSpan(3 * NvmeFixture.Block, 1024).ToArray();
        Assert.Equal(expected[..300], memory[100..400]);
        Assert.Equal(expected[300..512], memory[5000..5212]);
        Assert.Equal(expected[512..], memory[9000..9512]);
    }

    [Fact]
    public void The_last_block_may_end_beyond_the_memory_and_no_block_may_begin_there()
    {
        NvmeFixture f = new();
        f.Ready();
        byte[] memory = new byte[2 * Page];
        DmaAddressList list = f.Map(memory, (0, Page + 100));

        Assert.Equal(NvmeStatus.Success, f.Transfer(NvmeOpcode.Read, list, lba: 0, blocks: 9));
        Assert.Equal(f.Medium[..(Page + 100)], memory[..(Page + 100)]);
        Assert.Equal(-1, memory.AsSpan(Page + 100).IndexOfAnyExcept((byte)0));
        Assert.Equal(NvmeStatus.Success, f.Transfer(NvmeOpcode.Write, list, lba: 100, blocks: 9));
        Assert.Equal(f.Medium[..(Page + 100)], f.Medium[51200..(51200 + Page + 100)]);
        Assert.Equal(-1, f.Medium.AsSpan((51200 + Page + 100)..(51200 + Page + 512)).IndexOfAnyExcept((byte)0));
        foreach (NvmeOpcode opcode in new[] { NvmeOpcode.Write, NvmeOpcode.Read })
        {
            NvmeTransfer transfer = new() { Opcode = opcode, NamespaceId = 1, BlockCount = 10, Addresses = list };
            Assert.Equal(Errno.EINVAL, f.Locked(() => f.Driver.TrySubmit(transfer)));
        }
    }

    [Fact]
    public void A_write_takes_the_bytes_from_memory_and_a_flush_comes_behind_it()
    {
        NvmeFixture f = new();
        f.Ready();
        byte[] memory = new byte[2 * Page];
        memory.AsSpan().Fill(0x5A);

        Assert.Equal(NvmeStatus.Success, f.Transfer(NvmeOpcode.Write, f.Map(memory, (0, 2 * Page)), lba: 100, 16));
        Assert.Equal(NvmeStatus.Success, f.Transfer(NvmeOpcode.Flush, null, 0, 0));

        Assert.True(f.Medium.AsSpan(51200, 8192).IndexOfAnyExcept((byte)0x5A) < 0, "the medium has something else");
        Assert.NotEqual(0x5A, f.Medium[51199]);
        Assert.NotEqual(0x5A, f.Medium[51200 + 8192]);
    }

    [Fact]
    public void A_thousand_commands_wrap_the_rings_and_each_ends_once()
    {
        NvmeFixture f = new();
        f.Ready();
        byte[] memory = new byte[Page];
        DmaAddressList list = f.Map(memory, (0, Page));
        int ended = 0;
        for (int sent = 0; sent < 1000;)
        {
            NvmeTransfer transfer = new()
            {
                Opcode = NvmeOpcode.Read,
                NamespaceId = 1,
                StartLba = (ulong)(sent % 100),
                BlockCount = 8,
                Addresses = list,
                Ended = _ => ended++,
            };
            Errno errno = f.Locked(() => f.Driver.TrySubmit(transfer));
            if (errno == Errno.EAGAIN)
            {
                Assert.Equal(NvmeDriver.CommandsMax, f.Locked(() => f.Driver.Outstanding));
                f.Run();
                continue;
            }

            Assert.Equal(Errno.Success, errno);
            sent++;
        }

        f.Run();
        Assert.Equal(1000, ended);
        Assert.Equal(0, f.Locked(() => f.Driver.Outstanding));
    }

    [Fact]
    public void Blocks_behind_the_end_another_namespace_and_a_protected_one_are_refused()
    {
        NvmeFixture f = new();
        f.Ready();
        byte[] memory = new byte[Page];
        DmaAddressList list = f.Map(memory, (0, Page));
        ulong last = f.Namespace.BlockCount - 1;

        Assert.Equal(NvmeStatus.LbaOutOfRange, f.Transfer(NvmeOpcode.Read, list, last, 2));
        Assert.Equal(NvmeStatus.LbaOutOfRange, f.Transfer(NvmeOpcode.Read, list, ulong.MaxValue, 1));
        Assert.Equal(NvmeStatus.Success, f.Transfer(NvmeOpcode.Read, list, last, 1));
        Assert.Equal(NvmeStatus.InvalidNamespace, f.Transfer(NvmeOpcode.Read, list, 0, 1, nsid: 2));
        f.Locked(() => f.Controller.Attach(f.Namespace with { IsReadOnly = true }));
        Assert.Equal(NvmeStatus.WriteFault, f.Transfer(NvmeOpcode.Write, list, 0, 1));
        f.Locked(() => f.Controller.Detach(1));
        Assert.Equal(NvmeStatus.InvalidNamespace, f.Transfer(NvmeOpcode.Read, list, 0, 1));
    }

    [Fact]
    public void A_medium_that_fails_and_memory_that_does_not_answer_end_with_their_own_status()
    {
        NvmeFixture f = new();
        f.Ready();
        byte[] memory = new byte[Page];
        DmaAddressList list = f.Map(memory, (0, Page));

        f.MediumFails = Errno.EIO;
        Assert.Equal(NvmeStatus.UnrecoveredReadError, f.Transfer(NvmeOpcode.Read, list, 0, 8));
        f.MediumFails = Errno.ENOSPC;
        Assert.Equal(NvmeStatus.WriteFault, f.Transfer(NvmeOpcode.Write, list, 0, 8));
        DmaAddressList nowhere = new([new DeviceRange(new DeviceAddress(0x1000), Page)]);
        Assert.Equal(NvmeStatus.DataTransferError, f.Transfer(NvmeOpcode.Read, nowhere, 0, 8));
        Assert.Equal(NvmeStatus.DataTransferError, f.Transfer(NvmeOpcode.Write, nowhere, 0, 8));
    }

    [Fact]
    public void Identify_describes_the_controller_and_its_namespaces()
    {
        NvmeFixture f = new();
        f.Ready();

        byte[] controller = Identify(f, cns: 1, nsid: 0);
        Assert.StartsWith("WL000001 ", Encoding.ASCII.GetString(controller, 4, 20), StringComparison.Ordinal);
        Assert.Equal(8, controller[77]);
        Assert.Equal((0x66, 0x44), (controller[512], controller[513]));
        byte[] list = Identify(f, cns: 2, nsid: 0);
        Assert.Equal([1u, 0u], [BitConverter.ToUInt32(list, 0), BitConverter.ToUInt32(list, 4)]);
        byte[] page = Identify(f, cns: 0, nsid: 1);
        Assert.Equal(f.Namespace.BlockCount, BinaryPrimitives.ReadUInt64LittleEndian(page));
        Assert.Equal(9, page[130]);
        Assert.All(Identify(f, cns: 0, nsid: 9), b => Assert.Equal(0, b));
    }

    [Fact]
    public void A_reset_does_no_DMA_afterwards_and_leaves_its_buffer_to_a_medium_that_does_not_answer()
    {
        NvmeFixture f = new() { HoldsMedium = true };
        f.Ready();
        byte[] memory = new byte[Page];
        DmaAddressList list = f.Map(memory, (0, Page));
        NvmeTransfer? ended = null;
        NvmeTransfer transfer = new()
        {
            Opcode = NvmeOpcode.Read,
            NamespaceId = 1,
            BlockCount = 8,
            Addresses = list,
            Ended = t => ended = t,
        };
        f.Locked(() => Assert.Equal(Errno.Success, f.Driver.TrySubmit(transfer)));
        f.Run();
        Assert.Single(f.Held);

        f.Locked(f.Driver.Reset);
        f.Run();
        Assert.Equal(NvmeDriverState.Stopped, f.Locked(() => f.Driver.State));
        Assert.Equal(Errno.ECANCELED, ended!.Errno);

        // The one buffer is lent for good, and the drive works with the others.
        NvmeMediaRequest stuck = Assert.Single(f.Held);
        f.HoldsMedium = false;
        f.Locked(f.Driver.Start);
        f.Ready();
        Assert.All(memory, b => Assert.Equal(0, b));
        Assert.Equal(NvmeStatus.Success, f.Transfer(NvmeOpcode.Read, list, 8, 8));
        byte[] second = memory.ToArray();
        Assert.Equal(f.Medium[Page..(2 * Page)], second);

        f.Complete(stuck);
        f.Run();
        Assert.Equal(second, memory);
    }

    [Fact]
    public void Queue_memory_that_does_not_answer_is_a_fatal_status_and_a_reset_mends_it()
    {
        NvmeFixture f = new();
        f.Ready();
        f.Controller.WriteRegister(NvmeRegister.Configuration, 0);
        f.Run();
        f.Controller.WriteRegister(NvmeRegister.AdminSubmissionQueue, 0x1000);
        f.Controller.WriteRegister(NvmeRegister.Configuration, NvmeRegister.Enable);
        f.Controller.Drive(int.MaxValue, f.Complete);
        f.Controller.WriteRegister(NvmeRegister.SubmissionTail(0), 1);
        f.Controller.Drive(int.MaxValue, f.Complete);

        Assert.Equal(
            NvmeRegister.Ready | NvmeRegister.Fatal, f.Controller.ReadRegister(NvmeRegister.Status));
        f.Controller.WriteRegister(NvmeRegister.Configuration, 0);
        f.Controller.Drive(int.MaxValue, f.Complete);
        Assert.Equal(0UL, f.Controller.ReadRegister(NvmeRegister.Status));
    }

    [Fact]
    public void A_doorbell_that_no_queue_has_changes_nothing()
    {
        NvmeFixture f = new();
        f.Ready();

        f.Controller.WriteRegister(NvmeRegister.SubmissionTail(1), 5000);
        f.Controller.WriteRegister(NvmeRegister.SubmissionTail(9), 3);
        f.Controller.WriteRegister(NvmeRegister.SubmissionTail(60000), 3);
        f.Run();

        Assert.Equal(1, f.Controller.InvalidDoorbells);
        Assert.Equal(NvmeRegister.Ready, f.Controller.ReadRegister(NvmeRegister.Status));
    }

    [Fact]
    public void Whatever_is_in_a_submission_queue_the_controller_answers_or_fails_and_never_throws()
    {
        Random random = new(20261121);
        for (int round = 0; round < 60; round++)
        {
            NvmeFixture f = new(mediumBytes: 1 << 20);
            f.Ready();
            byte[] memory = new byte[2 * Page];
            ulong address = f.Map(memory, (0, 2 * Page)).Entries[0].Start.Value;
            for (int i = 0; i < 20; i++)
            {
                NvmeCommand command = new()
                {
                    Opcode = (byte)(random.Next(4) == 0 ? random.Next(256) : random.Next(3)),
                    CommandId = (ushort)random.Next(4),
                    NamespaceId = (uint)random.Next(3),
                    UsesSgl = random.Next(2) == 0,
                    DataPointer1 = Somewhere(random, address),
                    DataPointer2 = Somewhere(random, address),
                    Dword10 = (uint)random.Next(random.Next(2) == 0 ? 2048 : int.MaxValue),
                    Dword11 = (uint)random.Next(3),
                    Dword12 = (uint)random.Next(random.Next(2) == 0 ? 16 : 65536),
                };
                byte[] entry = new byte[NvmeCommand.SizeBytes];
                command.Write(entry);
                random.NextBytes(memory.AsSpan(Page, 64));
                f.Submit(random.Next(2), entry);
                f.Controller.Drive(10_000, f.Complete);
            }

            Assert.True(f.Controller.Requests.All(r => r.State is NvmeRequestState.Free or NvmeRequestState.Done)
                || (f.Controller.ReadRegister(NvmeRegister.Status) & NvmeRegister.Fatal) != 0);
        }
    }

    private static ulong Somewhere(Random random, ulong address) =>
        random.Next(3) == 0 ? (ulong)random.NextInt64() : address + (ulong)random.Next(2 * Page);

    private static byte[] Identify(NvmeFixture f, byte cns, uint nsid)
    {
        byte[] page = new byte[Page];
        ulong address = f.Map(page, (0, Page)).Entries[0].Start.Value;
        NvmeCommand command = new()
        {
            Opcode = (byte)NvmeAdminOpcode.Identify,
            CommandId = ushort.MaxValue,
            NamespaceId = nsid,
            DataPointer1 = address,
            Dword10 = cns,
        };
        byte[] entry = new byte[NvmeCommand.SizeBytes];
        command.Write(entry);
        f.Submit(0, entry);
        f.Run();
        return page;
    }
}
