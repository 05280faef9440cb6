using System.Runtime.InteropServices;
using Wayleave.Linux.Devmem;
using Wayleave.Linux.Interop;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Linux.Tests.Devmem;

/// <summary>Control messages of the kernel's devmem TCP, byte for byte, and what is none.</summary>
public sealed class DevmemControlTests
{
    // cmsg_len 40, SOL_SOCKET, SCM_DEVMEM_DMABUF; offset 0x1000, 1448 bytes, token 7, dma-buf 3, no flags.
    private const string InBuffer =
        "2800000000000000010000004f000000"
        + "0010000000000000a8050000070000000300000000000000";

    // The same with SCM_DEVMEM_LINEAR: 66 bytes that could not be split.
    private const string Linear =
        "2800000000000000010000004e000000"
        + "000000000000000042000000000000000000000000000000";

    // SOL_IP, IP_RECVERR with a zero-copy completion of sends 4 to 6 and no address behind it.
    private const string Completed =
        "2000000000000000000000000b000000"
        + "00000000050000000400000006000000";

    private static readonly DevmemPiece s_inBuffer = new(IsLinear: false, 0x1000, 1448, 7, 3);
    private static readonly DevmemPiece s_linear = new(IsLinear: true, 0, 66, 0, 0);

    [Fact]
    public void Pieces_are_read_in_order_and_other_messages_are_passed_over()
    {
        byte[] timestamp = Bytes("2000000000000000010000001d00000001000000000000000200000000000000");
        byte[] control = [.. Bytes(Linear), .. timestamp, .. Bytes(InBuffer)];
        DevmemPiece[] pieces = new DevmemPiece[4];
        Assert.Equal(2, DevmemControl.ReadPieces(control, pieces));
        Assert.Equal([s_linear, s_inBuffer], pieces[..2]);
        Assert.Equal(1, DevmemControl.ReadPieces(control, pieces.AsSpan(0, 1)));
        Assert.Equal(0, DevmemControl.ReadPieces(control, []));
    }

    [Fact]
    public void A_piece_takes_as_much_room_as_its_message() => Assert.Equal(Bytes(InBuffer).Length,
        DevmemControl.PieceSpace);

    [Fact]
    public void A_length_that_does_not_fit_ends_the_reading()
    {
        DevmemPiece[] pieces = new DevmemPiece[4];
        foreach (ulong length in (ulong[])[0, 15, 41, ulong.MaxValue, 1UL << 63])
        {
            byte[] control = [.. Bytes(InBuffer), .. Bytes(InBuffer)];
            MemoryMarshal.Write(control.AsSpan(40), length);
            Assert.Equal(1, DevmemControl.ReadPieces(control, pieces));
        }
    }

    [Fact]
    public void A_message_without_room_for_what_it_says_it_is_is_none()
    {
        byte[] control = [.. Bytes(InBuffer)];
        MemoryMarshal.Write(control.AsSpan(0), 39UL);
        Assert.Equal(0, DevmemControl.ReadPieces(control, new DevmemPiece[1]));
        control = Bytes(InBuffer)[..39]; // cut off, as with MSG_CTRUNC
        Assert.Equal(0, DevmemControl.ReadPieces(control, new DevmemPiece[1]));
    }

    [Fact]
    public void A_completion_names_the_sends_that_are_done()
    {
        Assert.True(DevmemControl.TryReadCompletion(Bytes(Completed), out DevmemCompletion completion));
        Assert.Equal(new DevmemCompletion(4, 6, WasCopied: false), completion);
        byte[] copied = Bytes(Completed);
        copied[22] = 1; // ee_code: SO_EE_CODE_ZEROCOPY_COPIED
        Assert.True(DevmemControl.TryReadCompletion(copied, out completion));
        Assert.True(completion.WasCopied);
        byte[] icmp = Bytes(Completed);
        icmp[20] = 2; // ee_origin: SO_EE_ORIGIN_ICMP
        Assert.False(DevmemControl.TryReadCompletion(icmp, out _));
        Assert.False(DevmemControl.TryReadCompletion(Bytes(InBuffer), out _));
        Assert.False(DevmemControl.TryReadCompletion([], out _));
    }

    // Whatever is read lies within what came: a span that ends there would throw otherwise.
    [Fact]
    public void Any_bytes_are_read_or_not_and_never_beyond_their_end()
    {
        Choices choices = Choices.Seeded(7);
        byte[][] seeds = [Bytes(InBuffer), Bytes(Linear), Bytes(Completed)];
        DevmemPiece[] pieces = new DevmemPiece[8];
        int read = 0, completions = 0;
        for (int i = 0; i < 200_000; i++)
        {
            byte[] control = [.. seeds[choices.Next(3)], .. seeds[choices.Next(3)], .. seeds[choices.Next(3)]];
            for (int flips = choices.Next(4); flips > 0; flips--)
            {
                control[choices.Next(control.Length)] = (byte)choices.Next(256);
            }

            ReadOnlySpan<byte> came = control.AsSpan(0, choices.Next(control.Length + 1));
            int count = DevmemControl.ReadPieces(came, pieces);
            Assert.InRange(count, 0, came.Length / (16 + 24));
            read += count;
            completions += DevmemControl.TryReadCompletion(came, out _) ? 1 : 0;
        }

        Assert.True(read > 0 && completions > 0);
    }

    [Fact]
    public void The_compiler_lays_messages_out_the_same_way()
    {
        string[] lines = CProgram.Run(Program).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal([InBuffer, Linear, Completed], lines);
    }

    private static byte[] Bytes(string hex) => Convert.FromHexString(hex);

    // Structures that older headers lack are those of the kernel's uapi.
    private static string Program => $$"""
        #define _GNU_SOURCE
        #include <stdio.h>
        #include <string.h>
        #include <sys/socket.h>
        #include <time.h>
        #include <netinet/in.h>
        #include <linux/errqueue.h>
        #include <linux/types.h>
        struct piece { __u64 frag_offset; __u32 frag_size, frag_token, dmabuf_id, flags; };

        static void put(int level, int type, const void *data, size_t length)
        {
            unsigned char buffer[64] = { 0 };
            struct msghdr m = { .msg_control = buffer, .msg_controllen = sizeof(buffer) };
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = level; c->cmsg_type = type; c->cmsg_len = CMSG_LEN(length);
            memcpy(CMSG_DATA(c), data, length);
            for (size_t i = 0; i < CMSG_SPACE(length); i++) printf("%02x", buffer[i]);
            printf("\n");
        }

        int main(void)
        {
            struct piece in = { 0x1000, 1448, 7, 3, 0 }, linear = { 0, 66, 0, 0, 0 };
            struct sock_extended_err done = { .ee_origin = SO_EE_ORIGIN_ZEROCOPY, .ee_info = 4, .ee_data = 6 };
            put(SOL_SOCKET, {{socket_devmem.SCM_DEVMEM_DMABUF}}, &in, sizeof(in));
            put(SOL_SOCKET, {{socket_devmem.SCM_DEVMEM_LINEAR}}, &linear, sizeof(linear));
            put(SOL_IP, IP_RECVERR, &done, sizeof(done));
            return 0;
        }
        """;
}
