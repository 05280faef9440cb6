using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Ethernet;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet;

public sealed class DevmemReceiveQueueTests
{
    private const int Page = PoolFixture.Page;

    [Fact]
    public void DEVM_10_A_read_without_the_flag_fails_and_one_with_it_gets_the_same_bytes()
    {
        PoolFixture f = new();
        PayloadFragment placed = f.Append(f.Pool, 1000, offset: 24);

        Assert.Equal(Errno.EFAULT, f.Queue.Receive(ReceiveFlags.None, 4096, new byte[4096], [], out _));
        Assert.Equal(1000, f.Queue.UnreadBytes);
        DevmemFragment read = Assert.Single(f.Read());
        Assert.Equal((DevmemFragmentKind.DmaBuf, placed.BufferOffset, 1000u, 1u, 7u), Parts(read));
        Assert.Equal(Errno.EAGAIN, f.Queue.Receive(ReceiveFlags.Devmem, 4096, [], new DevmemFragment[1], out _));
    }

    [Fact]
    public void DEVM_10_Bytes_before_device_memory_are_a_short_read()
    {
        PoolFixture f = new();
        f.Append(f.FallbackPool, 100);
        f.Append(f.Pool, 100);

        Assert.Equal(
            Errno.Success, f.Queue.Receive(ReceiveFlags.None, 4096, new byte[4096], [], out ReceiveResult result));
        Assert.Equal(new ReceiveResult(100, 100, 0), result);
    }

    [Fact]
    public void DEVM_09_Linear_bytes_of_a_bound_queue_are_copied_and_described_without_a_token()
    {
        PoolFixture f = new();
        f.Append(f.FallbackPool, 200, fill: 9);
        byte[] bytes = new byte[300];
        DevmemFragment[] fragments = new DevmemFragment[2];

        Assert.Equal(
            Errno.Success, f.Queue.Receive(ReceiveFlags.Devmem, 300, bytes, fragments, out ReceiveResult result));
        Assert.Equal(new ReceiveResult(200, 200, 1), result);
        Assert.Equal((DevmemFragmentKind.Linear, 0UL, 200u, 0u, 0u), Parts(fragments[0]));
        Assert.All(bytes[..200], b => Assert.Equal(9, b));
        Assert.Equal((0, 0), (f.Queue.OutstandingTokens, f.FallbackPool.LiveChunks));
    }

    [Fact]
    public void DEVM_11_Bytes_of_a_queue_that_is_not_bound_are_read_as_ever_with_the_flag_too()
    {
        PoolFixture f = new();
        f.Append(f.HostPool, 200, fill: 3);
        byte[] bytes = new byte[300];

        Assert.Equal(Errno.Success, f.Queue.Receive(ReceiveFlags.Devmem, 300, bytes, [], out ReceiveResult result));
        Assert.Equal(new ReceiveResult(200, 200, 0), result);
        Assert.Equal(3, bytes[199]);
    }

    [Fact]
    public void DEVM_12_One_read_returns_ordinary_bytes_or_device_memory()
    {
        PoolFixture f = new();
        f.Append(f.HostPool, 200);
        f.Append(f.Pool, 300);
        f.Append(f.HostPool, 400);

        Assert.Empty(f.Read());
        Assert.Equal(700, f.Queue.UnreadBytes);
        Assert.Equal(300u, Assert.Single(f.Read()).LengthBytes);
        Assert.Empty(f.Read());
        Assert.Equal(0, f.Queue.UnreadBytes);
    }

    [Fact]
    public void DEVM_13_Room_for_one_description_returns_one_piece_and_the_next_read_goes_on()
    {
        PoolFixture f = new();
        for (int i = 0; i < 3; i++)
        {
            f.Append(f.Pool);
        }

        Assert.Equal(Errno.ETOOSMALL, f.Queue.Receive(ReceiveFlags.Devmem, 1 << 20, [], [], out _));
        Assert.Equal(
            [0u, Page, 2 * Page], Enumerable.Range(0, 3).Select(_ => (uint)Assert.Single(f.Read(1)).Offset));
    }

    [Fact]
    public void A_piece_that_is_read_in_two_parts_has_two_tokens_and_needs_both_back()
    {
        PoolFixture f = new();
        f.Append(f.Pool);
        DevmemFragment first = Assert.Single(f.Read(lengthMax: 1000));
        DevmemFragment second = Assert.Single(f.Read());

        Assert.Equal((0UL, 1000u, 1u), (first.Offset, first.LengthBytes, first.Token));
        Assert.Equal((1000UL, 3096u, 2u), (second.Offset, second.LengthBytes, second.Token));
        Assert.Equal(1, f.Return(new TokenRange(1, 1)));
        Assert.Equal(1, f.Pool.LiveChunks);
        Assert.Equal(1, f.Return(new TokenRange(2, 1)));
        Assert.Equal(0, f.Pool.LiveChunks);
    }

    [Fact]
    public void A_peek_leaves_the_bytes_and_hands_out_a_token_of_its_own()
    {
        PoolFixture f = new();
        f.Append(f.Pool);
        Assert.Equal(1u, Assert.Single(f.Read(flags: ReceiveFlags.Devmem | ReceiveFlags.Peek)).Token);
        Assert.Equal(2u, Assert.Single(f.Read()).Token);
        Assert.Equal(2, f.Return(new TokenRange(1, 2)));
        Assert.Equal(0, f.Pool.LiveChunks);
    }

    [Fact]
    public void DEVM_14_A_token_is_returned_once()
    {
        PoolFixture f = new();
        f.Append(f.Pool);
        uint token = Assert.Single(f.Read()).Token;
        Assert.Equal(1, f.Return(new TokenRange(token, 1)));
        Assert.Equal(0, f.Return(new TokenRange(token, 1)));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void TCP_61_A_token_that_is_returned_twice_does_not_free_a_later_piece_unless_tokens_are_used_again_at_once(
        bool agesTokens)
    {
        PoolFixture f = new(defences: NicDefences.All with { AgesTokens = agesTokens });
        f.Append(f.Pool);
        uint token = Assert.Single(f.Read()).Token;
        f.Return(new TokenRange(token, 1));
        for (int i = 0; i < 32; i++)
        {
            f.Append(f.Pool);
            f.Return(new TokenRange(Assert.Single(f.Read()).Token, i < 31 ? 1u : 0u));
        }

        Assert.Equal(agesTokens ? 0 : 1, f.Return(new TokenRange(token, 1)));
    }

    [Fact]
    public void DEVM_15_differs_too_many_ranges_and_half_a_range_are_refused_and_only_connections_have_tokens()
    {
        PoolFixture f = new();
        f.Append(f.Pool);
        f.Read();
        Assert.Equal(Errno.EINVAL, f.Queue.DontNeed(new TokenRange[129], out _));
        Assert.Equal(Errno.EINVAL, f.Queue.DontNeed(new byte[7], out _));
        Assert.Equal(Errno.EINVAL, f.Queue.DontNeed(new byte[129 * 8], out _));
        Assert.Equal(Errno.Success, f.Queue.DontNeed([1, 0, 0, 0, 1, 0, 0, 0], out int freed));
        Assert.Equal(1, freed);
    }

    [Fact]
    public void DEVM_16_One_return_looks_at_1024_tokens_and_the_rest_stays_held()
    {
        PoolFixture f = new(pages: 900);
        for (int i = 0; i < 2000; i++)
        {
            // Two pieces of each chunk, in an order in which none follows the other.
            PayloadFragment fragment = new(f.Pool, i % 800, i / 800 * 1000, 10);
            if (i < 800)
            {
                Assert.True(f.Pool.TryAllocate(out int chunk));
                Assert.Equal(i, chunk);
            }
            else
            {
                fragment.Retain();
            }

            f.Queue.Append(fragment);
        }

        DevmemFragment[] fragments = f.Read(2000);
        Assert.Equal(Enumerable.Range(1, 2000).Select(i => (uint)i), fragments.Select(d => d.Token));
        Assert.Equal(1024, f.Return(new TokenRange(1, 2000)));
        Assert.Equal(976, f.Queue.OutstandingTokens);
        Assert.Equal(0, f.Return(new TokenRange(1, 4_000_000_000)));
        Assert.Equal(976, f.Return(new TokenRange(1025, 2000)));
        Assert.Equal(0, f.Pool.LiveChunks);
    }

    [Fact]
    public void DEVM_18_A_close_gives_back_what_was_not_read_and_what_is_held()
    {
        PoolFixture f = new(pages: 16);
        for (int i = 0; i < 14; i++)
        {
            f.Append(f.Pool);
        }

        Assert.Equal(10, f.Read(10).Length);
        Assert.Equal((2, 10), (f.Pool.FreeChunks, f.Binding.OutstandingTokens));
        f.Queue.Close();
        Assert.Equal((16, 0), (f.Pool.FreeChunks, f.Binding.OutstandingTokens));
        f.Queue.Close();
        Assert.True(f.Pool.TryAllocate(out int late));
        f.Queue.Append(new PayloadFragment(f.Pool, late, 0, 10));
        Assert.Equal(16, f.Pool.FreeChunks);
    }

    [Fact]
    public void After_a_revoke_reads_and_tokens_fail_with_ENODEV_and_are_counted()
    {
        PoolFixture f = new();
        f.Append(f.Pool);
        f.Append(f.Pool);
        uint token = Assert.Single(f.Read(1)).Token;

        using (f.Host.Enter())
        {
            f.Gpu.Free(f.Buffer, new RevokePolicy());
        }

        Assert.Equal(1, f.Revokes);
        Assert.True(f.Queue.HoldsUnreadOf(f.Binding));
        Assert.Equal(
            Errno.ENODEV, f.Queue.Receive(ReceiveFlags.Devmem, 4096, [], new DevmemFragment[4], out _));
        Assert.Equal(Errno.ENODEV, f.Queue.DontNeed([new TokenRange(token, 1)], out int freed));
        Assert.Equal((0, 1L), (freed, f.Binding.TokensRevoked));
        Assert.Equal(0, f.Return(new TokenRange(token, 1)));
        f.Queue.Close();
        Assert.False(f.Queue.HoldsUnreadOf(f.Binding));
    }

    [Theory]
    [InlineData(ImporterKind.Static)]
    [InlineData(ImporterKind.PinnedRevocable)]
    public void An_unbound_binding_keeps_the_memory_until_the_last_token_is_back(ImporterKind kind)
    {
        PoolFixture f = new(kind: kind);
        f.Append(f.Pool);
        uint token = Assert.Single(f.Read()).Token;

        f.Binding.Unbind();
        Assert.Equal(BindingState.Unbound, f.Binding.State);
        Assert.Equal(1, Attachments(f));
        f.Return(new TokenRange(token, 1));
        Assert.Equal((BindingState.Released, 0), (f.Binding.State, Attachments(f)));
    }

    [Fact]
    public void Random_reads_and_returns_keep_every_reference_and_every_byte()
    {
        SplitMix64 random = new(29);
        PoolFixture f = new(pages: 64);
        long appended = 0, read = 0;
        List<DevmemFragment> held = [];
        for (int step = 0; step < 20_000; step++)
        {
            ChunkPool pool = random.Next(3) switch { 0 => f.HostPool, 1 => f.FallbackPool, _ => f.Pool };
            if (random.Next(2) == 0 && pool.FreeChunks > 0)
            {
                appended += f.Append(pool, 1 + random.Next(Page)).LengthBytes;
                continue;
            }

            DevmemFragment[] fragments = new DevmemFragment[random.Next(5)];
            ReceiveFlags flags = (ReceiveFlags)(random.Next(2) * 2);
            byte[] linear = new byte[random.Next(2 * Page)];
            Errno errno = f.Queue.Receive(flags, random.Next(4 * Page), linear, fragments, out ReceiveResult result);
            Assert.Contains(errno, (Errno[])[Errno.Success, Errno.EAGAIN, Errno.EFAULT, Errno.ETOOSMALL]);
            read += result.Bytes;
            held.AddRange(fragments[..result.Fragments].Where(d => d.Token != 0));
            if (held.Count > 0 && random.Next(2) == 0)
            {
                int at = random.Next(held.Count);
                Assert.Equal(1, f.Return(new TokenRange(held[at].Token, 1)));
                held.RemoveAt(at);
            }

            Assert.Equal(appended - read, f.Queue.UnreadBytes);
            Assert.Equal(held.Count, f.Queue.OutstandingTokens);
        }

        f.Queue.Close();
        Assert.Equal((0, 0, 0), (f.Pool.LiveChunks, f.HostPool.LiveChunks, f.FallbackPool.LiveChunks));
        Assert.Equal(0, f.Binding.OutstandingTokens);
    }

    private static (DevmemFragmentKind, ulong, uint, uint, uint) Parts(in DevmemFragment d) =>
        (d.Kind, d.Offset, d.LengthBytes, d.Token, d.BindingId);

    private static int Attachments(PoolFixture f)
    {
        using (f.Host.Enter())
        {
            return f.Buffer.Shared.Attachments.Count;
        }
    }
}
