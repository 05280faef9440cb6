using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Linux.UserFaults;
using Xunit;

namespace Wayleave.Linux.Tests.UserFaults;

/// <summary>A real process's memory under userfaultfd(2), as the source of notifiers.</summary>
public sealed unsafe class UserFaultTests : IDisposable
{
    private const int Page = UserFaultRegion.PageBytes;
    private const int Pages = 16;
    private const int ChildSignal = 17; // SIGCHLD

    private readonly HostContext _host = new(TimeProvider.System);
    private readonly AddressSpace _space;
    private readonly UserFaultRegion? _region;
    private readonly UserFaultNotifier? _notifier;
    private readonly List<UserFaultEvent> _served = [];
    private readonly List<AddressRange> _gone = []; // from the region, lowest first
    private Thread? _server;
    private volatile bool _ends;

    public UserFaultTests()
    {
        using HostContext.Scope held = _host.Enter();
        _space = new AddressSpace(new MemorySystem(_host), "process");
        try
        {
            _region = UserFaultRegion.Create(Pages * Page);
            _notifier = new UserFaultNotifier(_space, _region, Content);
        }
        catch (LinuxException e) when (e.Errno is Errno.EPERM or Errno.ENOSYS or Errno.EINVAL)
        {
            Missing = e.Message;
        }
    }

    private string Missing { get; } = "";

    private AddressRange Addresses => _region!.Addresses;

    public void Dispose()
    {
        _ends = true;
        _server?.Join();
        _region?.Dispose();
        if (_region is null)
        {
            return;
        }

        // What a test has unmapped or moved away may be somebody else's by now: the runtime's, which writes its code
        // there, and would write it into the next region that is watched.
        ulong start = Addresses.Start;
        foreach (AddressRange gone in _gone)
        {
            UserFaultRegion.Unmap(new AddressRange(start, gone.Start - start));
            start = gone.Start + gone.LengthBytes;
        }

        UserFaultRegion.Unmap(new AddressRange(start, Addresses.Start + Addresses.LengthBytes - start));
    }

    [Fact]
    public void A_load_waits_until_the_page_is_there_and_reads_what_was_put_there()
    {
        Serve();
        Assert.Equal(Content(Addresses.Start + (3 * Page)), Load(3));
        Assert.Equal(Content(Addresses.Start + (3 * Page)), Load(3));
        Stop();
        Assert.Equal(
            new UserFaultEvent(UserFaultKind.PageFault, PageRange(3)), Assert.Single(_served));
        Assert.Equal(1, _notifier!.FaultCount);
        Assert.Equal(Content(Addresses.Start + (3 * Page)), _region!.DeviceView.Span.Slice(3 * Page, Page).ToArray());
    }

    [Fact]
    public void A_store_is_told_from_a_load()
    {
        Serve();
        UserFaultRegion.Store(Addresses.Start + 8, [1, 2, 3]);
        Stop();
        Assert.True(Assert.Single(_served).IsWrite);
        Assert.Equal([1, 2, 3], _region!.DeviceView.Span.Slice(8, 3).ToArray());
    }

    [Fact]
    public void The_collector_runs_while_a_thread_sleeps_in_a_fault()
    {
        Assert.SkipWhen(_region is null, Missing);
        byte[] loaded = [];
        Thread sleeper = new(() => loaded = Load(0));
        sleeper.Start();
        AwaitEvent(); // it sleeps now
        GC.Collect();
        GC.WaitForPendingFinalizers();
        Assert.True(_notifier!.TryServe(TimeSpan.Zero, out _));
        sleeper.Join();
        Assert.Equal(Content(Addresses.Start), loaded);
    }

    [Fact]
    public void A_page_that_the_device_has_touched_is_no_fault()
    {
        Assert.SkipWhen(_region is null, Missing);
        _region.DeviceView.Span[Page] = 0x5A;
        Assert.Equal(0x5A, Load(1)[0]);
        Assert.False(_notifier!.TryServe(TimeSpan.Zero, out _));
    }

    [Fact]
    public void Pages_thrown_away_are_a_round_that_makes_a_look_stale()
    {
        Serve();
        Mirror mirror = new();
        IntervalNotifier notifier = Subscribe(mirror);
        Load(4);
        ulong sequence = BeginRead(notifier);
        Assert.False(ReadRetry(notifier, sequence));

        UserFaultRegion.Discard(new AddressRange(Addresses.Start + (4 * Page), 2 * Page));
        Stop();
        Assert.Equal(
            (new AddressRange(Addresses.Start + (4 * Page), 2 * Page), InvalidateEvent.Clear),
            Assert.Single(mirror.Told));
        Assert.True(ReadRetry(notifier, sequence));
        Assert.False(ReadRetry(notifier, BeginRead(notifier)));
    }

    [Fact]
    public void Unmapped_pages_are_told_to_who_mirrors_them_and_stay_whole_for_a_late_device()
    {
        Serve();
        Mirror near = new(), far = new();
        Subscribe(near, new AddressRange(Addresses.Start + (8 * Page), Page));
        Subscribe(far, new AddressRange(Addresses.Start, Page));
        byte[] before = Load(8);
        _gone.Add(new AddressRange(Addresses.Start + (8 * Page), 2 * Page));
        UserFaultRegion.Unmap(_gone[0]);
        Stop();
        Assert.Equal(
            (new AddressRange(Addresses.Start + (8 * Page), 2 * Page), InvalidateEvent.Unmap),
            Assert.Single(near.Told));
        Assert.Empty(far.Told);
        Assert.Equal(before, _region!.DeviceView.Span.Slice(8 * Page, Page).ToArray());
    }

    [Fact]
    public void A_move_is_told_by_its_old_place_and_names_the_new_one()
    {
        Serve();
        Mirror mirror = new();
        Subscribe(mirror);
        byte[] before = Load(2);
        MappedMemory room = MappedMemory.AllocateAnonymous(2 * Page, hugePages: false);
        ulong to = AddressOf(room);
        _gone.Add(PageRange(2));
        AddressRange moved = UserFaultRegion.Move(PageRange(2), to);
        byte[] after = GC.AllocateArray<byte>(Page, pinned: true);
        UserFaultRegion.Load(moved.Start, after);
        ((IDisposable)room).Dispose(); // the moved page goes with it, which is an event as well
        Stop();
        Assert.Equal(before, after);
        UserFaultEvent told = Assert.Single(_served, e => e.Kind == UserFaultKind.Remap);
        Assert.Equal((PageRange(2), to), (told.Addresses, told.To));
        Assert.Contains((PageRange(2), InvalidateEvent.Unmap), mirror.Told);
    }

    [Fact]
    public void A_fork_is_a_round_over_the_whole_region()
    {
        Assert.SkipWhen(_region is null, Missing);
        Assert.SkipUnless(_region.SeesForks, "without CAP_SYS_PTRACE forks are not told");
        Serve();
        Mirror mirror = new();
        Subscribe(mirror);

        // The child runs _exit of the C library and nothing of ours.
        nint library = NativeLibrary.Load("libc.so.6");
        nint exit = NativeLibrary.GetExport(library, "_exit");
        delegate* unmanaged<nint, nint, int, nint, int> clone =
            (delegate* unmanaged<nint, nint, int, nint, int>)NativeLibrary.GetExport(library, "clone");
        byte[] stack = GC.AllocateArray<byte>(65536, pinned: true);
        nint top = Marshal.UnsafeAddrOfPinnedArrayElement(stack, 65536 - 64) & ~(nint)15;
        int child = clone(exit, top, ChildSignal, 0);
        Assert.True(child > 0);
        delegate* unmanaged<int, int*, int, int> wait =
            (delegate* unmanaged<int, int*, int, int>)NativeLibrary.GetExport(library, "waitpid");
        int status;
        Assert.Equal(child, wait(child, &status, 0));
        Stop();
        Assert.Equal(0, status);
        Assert.Equal((Addresses, InvalidateEvent.ProtectionPage), Assert.Single(mirror.Told));
        Assert.True(_served.Single(e => e.Kind == UserFaultKind.Fork).Child!.IsClosed);
    }

    [Fact]
    public void When_the_watch_ends_who_sleeps_goes_on_with_the_memory_as_it_is()
    {
        Assert.SkipWhen(_region is null, Missing);
        byte[] loaded = [1];
        Thread sleeper = new(() => loaded = Load(5));
        sleeper.Start();
        AwaitEvent();
        _region.Dispose();
        sleeper.Join();
        Assert.All(loaded, b => Assert.Equal(0, b));
    }

    [Fact]
    public void Many_threads_that_fault_and_change_the_map_are_all_served()
    {
        Serve();
        Thread[] threads = [.. Enumerable.Range(0, 4).Select(t => new Thread(() =>
        {
            for (int round = 0; round < 50; round++)
            {
                int page = (t * 4) + (round % 4);
                Load(page);
                UserFaultRegion.Discard(PageRange(page));
            }
        }))];
        Array.ForEach(threads, t => t.Start());
        Array.ForEach(threads, t => t.Join());
        Stop();
        Assert.Equal(200, _served.Count(e => e.Kind == UserFaultKind.Remove));
        Assert.Equal(200, _notifier!.RoundCount);
    }

    private static ulong AddressOf(MappedMemory memory)
    {
        using System.Buffers.MemoryHandle pin = memory.Pin();
        return (ulong)pin.Pointer;
    }

    // A page whose bytes say where it is.
    private static byte[] Content(ulong address)
    {
        byte[] page = new byte[Page];
        page.AsSpan().Fill((byte)(address / Page * 7));
        return page;
    }

    private AddressRange PageRange(int page) => new(Addresses.Start + ((ulong)page * Page), Page);

    private byte[] Load(int page)
    {
        byte[] bytes = GC.AllocateArray<byte>(Page, pinned: true);
        UserFaultRegion.Load(PageRange(page).Start, bytes);
        return bytes;
    }

    // A handler of a signal, of which the runtime has some, ends one wait and not the sleep of who faulted.
    private void AwaitEvent() => Assert.True(SpinWait.SpinUntil(
        () => _region!.Wait(TimeSpan.FromMilliseconds(20)), Patience.Max));

    private void Serve()
    {
        Assert.SkipWhen(_region is null, Missing);
        _server = new Thread(() =>
        {
            while (!_ends)
            {
                if (_notifier!.TryServe(TimeSpan.FromMilliseconds(20), out UserFaultEvent served))
                {
                    _served.Add(served);
                }
            }
        });
        _server.Start();
    }

    private void Stop()
    {
        _ends = true;
        _server!.Join();
    }

    private IntervalNotifier Subscribe(Mirror mirror, AddressRange? range = null)
    {
        using HostContext.Scope held = _host.Enter();
        Assert.Equal(Errno.Success, _space.Subscribe(range ?? Addresses, mirror, out IntervalNotifier? notifier));
        return notifier!;
    }

    private ulong BeginRead(IntervalNotifier notifier)
    {
        using HostContext.Scope held = _host.Enter();
        ulong sequence = notifier.BeginRead(out bool mustWait);
        Assert.False(mustWait);
        return sequence;
    }

    private bool ReadRetry(IntervalNotifier notifier, ulong sequence)
    {
        using HostContext.Scope held = _host.Enter();
        return notifier.ReadRetry(sequence);
    }

    /// <summary>A device that stops at once, and remembers what it was told.</summary>
    private sealed class Mirror : IMirror
    {
        public string Name => "device";

        public List<(AddressRange, InvalidateEvent)> Told { get; } = [];

        public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
        {
            notifier.SetSequence(sequence);
            Told.Add((range.Addresses, range.Event));
            return InvalidateAnswer.Done;
        }
    }
}
