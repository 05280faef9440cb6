using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu;

// An engine copies a whole list and stops where an address answers nothing. That page stays where it was, and a further
// job goes on behind it: as many jobs as pages fail, and one. A job that ended for any other reason (hung, the device
// is gone) has done what it has done; the rest of its pages stay.
//
// The end of a job counts and not its fence: while an engine that was given up as hung may still be inside of a block,
// the targets belong to it, and so the pages stay locked.

/// <summary>
/// The copies of one migration by a GPU's copy engine, page by page as far as they come. Host lock held.
/// </summary>
internal sealed class PageCopyRun
{
    private readonly CopyEngine _engine;
    private readonly PageCopies _copies;
    private readonly Timeline _jobs;
    private readonly Fence _done; // by the end of the last job
    private int _underWay;

    public PageCopyRun(HostContext host, CopyEngine engine, PageCopies copies, Timeline jobs)
    {
        (_engine, _copies, _jobs) = (engine, copies, jobs);
        _done = new Timeline(host, jobs.Name).CreateFence(); // one of its own: others may end before it
    }

    /// <summary>Pages that the processor had to copy; exact when the run has ended.</summary>
    public Action<int>? CopiedByProcessor { get; init; }

    /// <summary>Begins. The fence signals when the last job has ended; null when nothing is under way.</summary>
    public Fence? Start()
    {
        _underWay = 1; // this: nothing ends before all have begun
        Begin("migrate pages", areCleared: false);
        Begin("clear pages", areCleared: true);
        End();
        return _done.IsSignaled ? null : _done;
    }

    private void Begin(string name, bool areCleared)
    {
        List<DeviceRange> from = [], to = [];
        List<int> indexes = [];
        bool isReachable = true;
        for (int i = 0; i < _copies.Count; i++)
        {
            (PageFrame? source, PageFrame target, int pages) = _copies[i];
            if ((source is null) != areCleared)
            {
                continue;
            }

            indexes.Add(i);
            Add(to, target, pages);
            isReachable &= target.Address.Value != 0;
            if (source is not null)
            {
                Add(from, source, pages);
                isReachable &= source.Address.Value != 0;
            }
        }

        if (indexes.Count == 0)
        {
            return;
        }

        Part part = new(
            $"{_jobs.Name}: {name}", indexes, areCleared ? null : new DmaAddressList([.. from]),
            new DmaAddressList([.. to]));
        if (isReachable)
        {
            GoOn(part, first: 0, offset: 0);
        }
        else
        {
            CopyByProcessor(part, first: 0);
        }
    }

    // From the page on that is so many bytes behind the first.
    private void GoOn(Part part, int first, ulong offset)
    {
        if (first == part.Indexes.Count)
        {
            return;
        }

        if (_engine.Refusal == Errno.ENODEV)
        {
            Fail(part, first, part.Indexes.Count); // the device is gone, and its memory with it
        }
        else if (!_engine.HasRoom)
        {
            CopyByProcessor(part, first);
        }
        else
        {
            CopyJob job = new()
            {
                Name = part.Name,
                Source = part.Source,
                SourceOffset = offset,
                Target = part.Target,
                TargetOffset = offset,
                Fence = _jobs.CreateFence(),
                Ended = ended => HandleEnd(part, first, ended),
            };
            _underWay++;
            _engine.TrySubmit(job); // it has room, and waits for nothing
        }
    }

    private void HandleEnd(Part part, int first, CopyJob job)
    {
        ulong done = job.TargetOffset + job.DoneBytes;
        if (done < part.Target.LengthBytes)
        {
            ulong end = job.TargetOffset;
            int at = first;
            while (end + BytesOf(part, at) <= done)
            {
                end += BytesOf(part, at++);
            }

            if (job.Fence.Error == Errno.EFAULT)
            {
                Fail(part, at, at + 1);
                GoOn(part, at + 1, end + BytesOf(part, at));
            }
            else
            {
                Fail(part, at, part.Indexes.Count);
            }
        }

        End();
    }

    private void End()
    {
        if (--_underWay == 0)
        {
            _done.Signal();
        }
    }

    private void Fail(Part part, int first, int end)
    {
        for (int i = first; i < end; i++)
        {
            _copies.Fail(part.Indexes[i]);
        }
    }

    private ulong BytesOf(Part part, int i) => (ulong)_copies[part.Indexes[i]].Pages * PageFrame.SizeBytes;

    private void CopyByProcessor(Part part, int first)
    {
        for (int i = first; i < part.Indexes.Count; i++)
        {
            (PageFrame? source, PageFrame target, int pages) = _copies[part.Indexes[i]];
            if (source is null)
            {
                target.BytesOf(pages).Span.Clear();
            }
            else
            {
                source.BytesOf(pages).CopyTo(target.BytesOf(pages));
            }

            CopiedByProcessor?.Invoke(pages);
        }
    }

    // Pages next to each other are one entry; one without an address is nothing that an engine reaches.
    private static void Add(List<DeviceRange> ranges, PageFrame frame, int pages)
    {
        ulong bytes = (ulong)pages * PageFrame.SizeBytes;
        if (ranges is [.., { } last] && frame.Address.Value != 0
            && last.Start.Value + last.LengthBytes == frame.Address.Value)
        {
            ranges[^1] = last with { LengthBytes = last.LengthBytes + bytes };
        }
        else
        {
            ranges.Add(new DeviceRange(frame.Address, bytes));
        }
    }

    /// <summary>Those with a source, or those without.</summary>
    private sealed record Part(string Name, List<int> Indexes, DmaAddressList? Source, DmaAddressList Target);
}
