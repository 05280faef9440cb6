using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Ibverbs;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>IBV_EVENT_CQ_ERR names the completion queue, whatever became of the queue pairs that used it.</summary>
public sealed class CompletionErrorTests : IDisposable
{
    private const uint Nobody = 0x123456;

    private readonly VerbsDevice _device = new("wl0", Gid.FromIPv4(0x7F00_3C02));
    private readonly EventFd _wake = new();
    private readonly VerbsContext _context;

    public CompletionErrorTests() => _context = new VerbsContext(_device, _wake);

    public void Dispose() => _wake.Dispose();

    [Fact]
    public void It_comes_though_the_queue_pair_is_gone()
    {
        VerbsCompletions one = Make(0x10), other = Make(0x20);
        _device.HandleEvent(Overflow(other));
        _device.HandleEvent(Overflow(one));
        Assert.Equal([0x20, 0x10], Take());
    }

    [Fact]
    public void It_does_not_come_when_the_completion_queue_is_gone_too()
    {
        VerbsCompletions one = Make(0x10);
        _device.Remove(one);
        _device.HandleEvent(Overflow(one));
        Assert.Empty(Take());
    }

    private static AsyncEvent Overflow(VerbsCompletions completions) =>
        new(AsyncEventType.CompletionQueueError, Nobody, Completions: completions.Queue);

    private VerbsCompletions Make(nint structure)
    {
        Assert.Equal(Errno.Success, RdmaDevice.TryCreateCompletionQueue(1, out CompletionQueue? queue));
        VerbsCompletions made = new(_context, null, queue!, structure);
        _device.Add(made);
        return made;
    }

    private List<nint> Take()
    {
        List<nint> taken = [];
        while (_context.TryTake(out AsyncEventType type, out nint element))
        {
            Assert.Equal(AsyncEventType.CompletionQueueError, type);
            taken.Add(element);
        }

        return taken;
    }
}
